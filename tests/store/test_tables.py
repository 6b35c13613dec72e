import dataclasses

import pytest

from tramontane.domain.catalog import Model, ModelVersion
from tramontane.domain.deployment import Deployment
from tramontane.domain.event import Event
from tramontane.domain.fleet import Cluster, Node
from tramontane.domain.quotas.quota import Quota, RackReservation
from tramontane.domain.replica import Replica
from tramontane.domain.report import RunnerReport
from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.pricing import Prices
from tramontane.domain.spending.slices import Holder, Window
from tramontane.domain.tenancy import ApiKey, Organization, Project
from tramontane.domain.usage import UsageEvent, UsageTotal
from tramontane.store import tables
from tramontane.store.quotas import tables as quota_tables
from tramontane.store.reports import runners

# What a table has beside the fields of its value.
ADDED = {
    "deployments": {"model_version_id"},
    "limits": {"created_at_ms"},
    "quotas": {"created_at_ms"},
    "rack_reservations": {"created_at_ms"},
    "prices": {"model_id", "changed_at_ms"},
    "slice_windows": {"limit_id", "meter"},
    "slice_holders": {"holder", "gateway"},
    "runner_reports": {"received_at_ms"},
    "usage_events": {"sequence", "accepted_at_ms"},
}


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (tables.organizations, Organization),
        (tables.projects, Project),
        (tables.api_keys, ApiKey),
        (tables.models, Model),
        (tables.model_versions, ModelVersion),
        (tables.clusters, Cluster),
        (tables.nodes, Node),
        (tables.deployments, Deployment),
        (tables.replicas, Replica),
        (tables.events, Event),
        (tables.limits, Limit),
        (quota_tables.quotas, Quota),
        (quota_tables.rack_reservations, RackReservation),
        (tables.prices, Prices),
        (tables.slice_windows, Window),
        (tables.slice_holders, Holder),
        (tables.usage_events, UsageEvent),
        (tables.usage_totals, UsageTotal),
        (runners.runner_reports, RunnerReport),
    ],
)
def test_every_field_has_its_column(table, kind):
    """A field that is added to the domain alone would be lost by storing it."""
    names = {field.name for field in dataclasses.fields(kind)}
    assert {column.name for column in table.columns} == names | ADDED.get(table.name, set())
