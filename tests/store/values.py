"""Hypothesis strategies for the nested values that are stored as JSON texts."""

from __future__ import annotations

from hypothesis import strategies as st

from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.fleet import Device
from tramontane.domain.launch import LaunchSpec, LoadProbe
from tramontane.domain.resources import Resources
from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import Role

# Surrogates cannot be encoded; everything else may come in a name, a path or a log line.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
integer = st.integers(0, 2**63 - 1)
pairs = st.lists(st.tuples(text, text), max_size=4).map(tuple)

resources = st.builds(Resources, integer, integer, integer)
devices = st.lists(st.builds(Device, integer, text, integer), max_size=4).map(tuple)
specs = st.builds(
    DeploymentSpec,
    model_version_id=text,
    engine=text,
    replicas=integer,
    context_length=integer,
    parallel=integer,
    devices=integer,
    cpu_millicores=st.none() | integer,
    memory_bytes=st.none() | integer,
    engine_options=pairs,
)
launches = st.builds(
    LaunchSpec,
    argv=st.lists(text, max_size=5).map(tuple),
    env=pairs,
    resources=resources,
    health_path=text,
    load=st.none() | st.builds(LoadProbe, text, text, text),
    ready_timeout_s=integer,
    drain_timeout_s=integer,
    device_indexes=st.lists(integer, max_size=4).map(tuple),
)
route_replicas = st.builds(RouteReplica, text, text, text)
routes = st.builds(
    Route,
    project_id=text,
    model=text,
    deployment_id=text,
    upstream_model=text,
    engine=text,
    context_length=integer,
    created_at_ms=integer,
    replicas=st.lists(route_replicas, max_size=3).map(tuple),
    retry_after_s=st.none() | integer,
)
route_keys = st.builds(
    RouteKey,
    text,
    text,
    text,
    st.sampled_from(Role),
    expires_at_ms=st.none() | integer,
    requests_in_flight_max=st.none() | integer,
)
route_tables = st.builds(
    RouteTable,
    revision=integer,
    hmac_key=text,
    keys=st.dictionaries(text, route_keys, max_size=3),
    routes=st.lists(routes, max_size=3).map(tuple),
    probe_deployment_id=st.none() | text,
)
signed = st.integers(-(2**63), 2**63 - 1)
event_data = st.dictionaries(text, text | signed | st.none(), max_size=5)
