"""Hostile input, route by route: a 4xx that names the field and says what is expected.

Every test runs inside `unchanged`: no refusal leaves a row behind or wakes a reconciler.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tests.support.weights import write_gguf
from tramontane.api.front import BODY_BYTES_MAX, REPORT_BYTES_MAX

RIGHT: dict[str, dict[str, Any]] = {
    "POST /organizations": {"name": "fresh"},
    "POST /projects": {"name": "fresh", "organization": "default"},
    "POST /api-keys": {
        "name": "fresh",
        "role": "member",
        "expires_at_ms": 4_000_000_000_000,
        "project": "default",
    },
    "POST /models": {
        "name": "fresh",
        "path": "/no/such.gguf",
        "digest": "sha256:" + "0" * 64,
        "licence": "MIT",
    },
    "POST /deployments": {
        "name": "fresh",
        "model": "tramontane-demo",
        "replicas": 1,
        "engine": "llamacpp",
        "context_length": 128,
        "parallel": 1,
        "devices": 0,
        "cpu_millicores": 100,
        "memory_bytes": 1 << 30,
        "engine_options": {"mode": "chat"},
        "project": "default",
    },
    "PATCH /deployments/tramontane-demo": {
        "model": "tramontane-demo",
        "replicas": 1,
        "context_length": 128,
        "parallel": 1,
        "devices": 0,
        "cpu_millicores": 100,
        "memory_bytes": 1 << 30,
        "engine_options": {"mode": "chat"},
    },
    "POST /deployments/tramontane-demo/scale": {"replicas": 1},
    "POST /jobs": {
        "name": "fresh",
        "nodes": 1,
        "devices": 0,
        "cpu_millicores": 100,
        "memory_bytes": 1 << 30,
        "priority_class": "spot",
        "time_limit_s": 60,
        "retries": 1,
        "array": 2,
        "topology": "any",
        "hang_after_s": 5,
        "cluster": "local",
        "project": "default",
    },
    "PUT /limits": {
        "project": "default",
        "model": "chat",
        "requests_per_minute_max": 1,
        "tokens_per_minute_max": 1,
        "requests_in_flight_max": 1,
        "budget_micro": 1,
    },
    "PUT /prices/tramontane-demo": {
        "prompt_micro": 1,
        "completion_micro": 1,
        "cached_micro": 1,
        "request_micro": 1,
    },
}
REQUIRED = {
    "POST /organizations": ["name"],
    "POST /projects": ["name"],
    "POST /api-keys": ["name"],
    "POST /models": ["name", "path"],
    "POST /deployments": ["name", "model"],
    "PATCH /deployments/tramontane-demo": [],
    "POST /deployments/tramontane-demo/scale": ["replicas"],
    "POST /jobs": ["name"],
    "PUT /limits": [],
    "PUT /prices/tramontane-demo": [],
}
EVERY_FIELD = [(route, field) for route, body in RIGHT.items() for field in body]

TEXTS: list[Any] = [
    "", " ", "a\0b", "a\nb", "\U0001f600", "e\u0301", "x" * 10_000, "a" * 500 + "\U0001f600",
    "../../etc/passwd", "'; DROP TABLE deployments; --", "{python}", "%00", "\u202eabc", 0, True,
    1.5, [], {}, ["a"], {"a": "b"},
]  # fmt: skip
NUMBERS: list[Any] = [
    -1, -(1 << 63), 1 << 63, 1 << 64, 10**100, 1.0, 1.5, 1e308, "1", "", True, [], {}, [1], "NaN",
]  # fmt: skip
MAPS: list[Any] = [
    [], "a=b", 5, True, {"": "b"}, {"a": ""}, {"a": 5}, {"a": None}, {"a": ["b"]}, {"a b": "c"},
    {"a\0": "c"}, {"a": "b\0"}, {"a": "\U0001f600"}, {"x" * 65: "y"}, {"a": "x" * 513},
    {f"o{n}": "x" for n in range(65)}, {"no_such_option": "x"},
]  # fmt: skip
# These look hostile and are nothing but a text that the field may hold.
HARMLESS = {
    ("licence", " "), ("licence", "{python}"), ("licence", "%00"),
    ("licence", "../../etc/passwd"), ("licence", "'; DROP TABLE deployments; --"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_changes(shared_cloud: Cloud) -> Iterator[None]:
    with shared_cloud.unchanged():
        yield


def send(cloud: Cloud, route: str, body: Any, **sent: Any) -> Any:
    method, path = route.split(" ")
    if isinstance(body, bytes):
        headers = {"content-type": "application/json"} | sent.pop("headers", {})
        return cloud.call(method, f"/cloud/v1{path}", content=body, headers=headers, **sent)
    # ASCII escapes, so that what JSON can say of half a surrogate pair is said.
    return send(cloud, route, json.dumps(body).encode(), **sent)


def hostile(right: Any) -> list[Any]:
    if isinstance(right, dict):
        return MAPS
    return NUMBERS if isinstance(right, int) else TEXTS


@pytest.mark.parametrize(("route", "field"), EVERY_FIELD)
def test_hostile_values(shared_cloud: Cloud, route: str, field: str) -> None:
    for value in hostile(RIGHT[route][field]):
        if isinstance(value, str) and (field, value) in HARMLESS:
            continue
        reply = send(shared_cloud, route, RIGHT[route] | {field: value})
        body = reply.json()
        assert 400 <= reply.status_code < 500, (value, reply.text)
        assert body["param"].split(".")[0] == field, (value, body)
        assert field.split("_", maxsplit=1)[0] in body["message"], (value, body)
        assert "\0" not in reply.text
        check_error(reply, reply.status_code, body["code"], body["param"])


@pytest.mark.parametrize("route", RIGHT)
def test_missing_and_unknown_fields(shared_cloud: Cloud, route: str) -> None:
    for field in REQUIRED[route]:
        less = {name: value for name, value in RIGHT[route].items() if name != field}
        reply = send(shared_cloud, route, less)
        check_error(reply, 400, "missing_required_parameter", field)
        reply = send(shared_cloud, route, RIGHT[route] | {field: None})
        check_error(reply, 400, "invalid_value", field)
    for name in ("replica_count", "__class__", "", "\0", "\U0001f600", "x" * 10_000):
        reply = send(shared_cloud, route, RIGHT[route] | {name: 1})
        assert "leave it out" in check_error(reply, 400, "invalid_value", reply.json()["param"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "must be a JSON object"),
        (b"{", "line 1 column 2"),
        (b"\xff\xfe", "UTF-8"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"5", "must be a JSON object"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": Infinity}', "Infinity"),
        (b'{"name": 1e999}', "range"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"name": "a", "name": "b"}', "'name' stands twice"),
        (b'{"replicas": 1, "replicas": 300}', "'replicas' stands twice"),
        (b'{"name": ' + b"9" * 5_000 + b"}", "digits"),
        (b"[" * 200_000, "deeply"),
        (b'{"a":' * 100_000, "deeply"),
        (b"{} {}", "Extra data"),
    ],
)
def test_bodies_that_are_no_json_object(shared_cloud: Cloud, body: bytes, told: str) -> None:
    for route in RIGHT:
        message = check_error(send(shared_cloud, route, body), 400, "invalid_json")
        assert told in message
        assert "JSON" in message


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_bodies_of_another_type(shared_cloud: Cloud, kind: str) -> None:
    headers = {"content-type": kind}
    body = b'{"name": "fresh"}'
    reply = shared_cloud.call("POST", "/cloud/v1/organizations", content=body, headers=headers)
    assert "content-type: application/json" in check_error(reply, 400, "invalid_json")


def test_bodies_over_the_limit(shared_cloud: Cloud) -> None:
    at_most = b'{"name": "' + b"x" * (BODY_BYTES_MAX - 12) + b'"}'
    assert len(at_most) == BODY_BYTES_MAX
    check_error(send(shared_cloud, "POST /organizations", at_most), 400, "invalid_value", "name")
    reply = send(shared_cloud, "POST /organizations", at_most + b" ")
    assert str(BODY_BYTES_MAX) in check_error(reply, 413, "body_too_large")
    # Also where the body would not be read, or the caller is nobody.
    for path, key in (("/whoami", None), ("/organizations", "")):
        reply = shared_cloud.call("POST", f"/cloud/v1{path}", key=key, content=at_most + b" ")
        check_error(reply, 413, "body_too_large")


def test_chunked_bodies_over_the_limit(shared_cloud: Cloud) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    reply = shared_cloud.call("POST", "/cloud/v1/organizations", content=chunks(), headers=headers)
    check_error(reply, 413, "body_too_large")


def test_a_false_length_is_no_way_around_the_limit(shared_cloud: Cloud) -> None:
    body = b" " * (BODY_BYTES_MAX + 1)
    for length in ("5", "-1", "many", "\u0665", "1" * 30):
        headers = {"content-type": "application/json", "content-length": length.encode()}
        reply = send(shared_cloud, "POST /organizations", body, headers=headers)
        check_error(reply, 413, "body_too_large")


def test_the_gateways_reports_have_a_limit_of_their_own(shared_cloud: Cloud) -> None:
    path = "/internal/v1/usage-events"
    headers = {"content-type": "application/json"}
    body = b'{"events": []' + b" " * (BODY_BYTES_MAX + 1) + b"}"
    reply = shared_cloud.call("POST", path, key=GATEWAY_TOKEN, content=body, headers=headers)
    assert reply.json() == {"accepted": 0, "duplicates": 0, "rejected": []}
    body = b" " * (REPORT_BYTES_MAX + 1)
    reply = shared_cloud.call("POST", path, key=GATEWAY_TOKEN, content=body, headers=headers)
    check_error(reply, 413, "body_too_large")


HOSTILE_REFS = [
    "%00", "%0a", "a%00b", "%F0%9F%98%80", "%C3%A9", "%ED%A0%80", "%FF", "..%2F..%2Fetc", "a b",
    "'%20OR%201=1", "x" * 129, "x" * 5_000, "%7Bdeployment%7D", "-", "a;b", "dep_" + "a" * 20,
]  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/organizations/{}", "/projects/{}", "/api-keys/{}", "/models/{}", "/deployments/{}",
        "/deployments/{}/logs", "/deployments/{}/events", "/replicas/{}", "/limits/{}",
        "/prices/{}", "/jobs/{}", "/jobs/{}/attempts", "/jobs/{}/logs",
    ],
)  # fmt: skip
def test_hostile_references(shared_cloud: Cloud, path: str) -> None:
    for ref in HOSTILE_REFS:
        check_error(shared_cloud.call("GET", f"/cloud/v1{path.format(ref)}"), 404, "not_found")


QUERIES = {
    "/organizations": ["after=%00", "after=org_aaaaaaaaaaaaaaaaaaaa", "limit=0", "limit=101"],
    "/projects": ["organization=%00", "limit=-1", "limit=x", "limit=1e2", "limit=", "after="],
    "/api-keys": ["project=%F0%9F%98%80", "limit=99999999999999999999999", "after=a%20b"],
    "/models": ["after=mdl_aaaaaaaaaaaaaaaaaaaa", "limit=1.5", "limit=%D9%A3x"],
    "/deployments": ["limt=5", "project=", "after=dep_aaaaaaaaaaaaaaaaaaaa"],
    "/deployments/tramontane-demo/logs": ["lines=0", "lines=1001", "lines=-5", "lines=all"],
    "/deployments/tramontane-demo/events": ["after=-1", "after=9223372036854775808", "limit=0"],
    "/replicas": ["deployment=%00", "limit=0", "after=rep_aaaaaaaaaaaaaaaaaaaa"],
    "/jobs": [
        "after=job_aaaaaaaaaaaaaaaaaaaa",
        "limit=0",
        "status=done",
        "order=up",
        "project=%00",
    ],
    "/sites": ["limit=0", "limit=1000", "x=1"],
    "/clusters": ["after=clu_aaaaaaaaaaaaaaaaaaaa", "limit=0", "x=1"],
    "/nodes": ["after=nod_aaaaaaaaaaaaaaaaaaaa", "cluster=a%0ab"],
    "/usage": ["from_ms=-1", "to_ms=253402300800000", "group_by=user", "limit=1001", "from_ms=x"],
    "/usage/events": ["after=evt_aaaaaaaaaaaaaaaaaaaa", "limit=0", "after=%00"],
    "/limits": ["after=lim_aaaaaaaaaaaaaaaaaaaa", "limit=0", "project=%00", "api_key=a%20b"],
    "/budgets": ["after=lim_aaaaaaaaaaaaaaaaaaaa", "limit=101", "organization=%F0%9F%98%80"],
    "/prices": ["after=mdl_aaaaaaaaaaaaaaaaaaaa", "limit=0"],
    "/events?subject=dep_x": ["after=x", "limit=0"],
    "/events": ["subject=%00", "subject="],
}


@pytest.mark.parametrize("path", QUERIES)
def test_hostile_queries(shared_cloud: Cloud, path: str) -> None:
    sign = "&" if "?" in path else "?"
    for query in QUERIES[path]:
        field = query.split("=")[0]
        reply = shared_cloud.call("GET", f"/cloud/v1{path}{sign}{query}")
        assert field in check_error(reply, 400, "invalid_value", field)


def test_a_story_needs_its_subject(shared_cloud: Cloud) -> None:
    reply = shared_cloud.call("GET", "/cloud/v1/events")
    check_error(reply, 400, "missing_required_parameter", "subject")


def test_a_time_range_backwards(shared_cloud: Cloud) -> None:
    reply = shared_cloud.call("GET", "/cloud/v1/usage?from_ms=2&to_ms=1")
    assert "from_ms" in check_error(reply, 400, "invalid_value")


@pytest.mark.parametrize("noun", ["deployments", "organizations", "api-keys"])
def test_messages_are_sentences(shared_cloud: Cloud, noun: str) -> None:
    told = {
        "": "name must have at least 1 character, not ''",
        "Not A Label": "name must be a DNS label: 1 to 63 of a-z, 0-9 and inner hyphens, such as "
        "my-chat-1, not 'Not A Label'",
        5: "name must be a valid string, not 5",
    }
    for name, expected in told.items():
        body = {"name": name, "model": "x"} if noun == "deployments" else {"name": name}
        message = check_error(
            send(shared_cloud, f"POST /{noun}", body), 400, "invalid_value", "name"
        )
        assert message == expected


def test_bad_numbers_are_told_with_their_bounds(shared_cloud: Cloud) -> None:
    for replicas, told in {
        -1: "replicas must be greater than or equal to 0, not -1",
        1_000_000: "replicas must be less than or equal to 256, not 1000000",
        "many": "replicas must be a valid integer, not 'many'",
        1.5: "replicas must be a valid integer, not 1.5",
        True: "replicas must be a valid integer, not True",
    }.items():
        reply = send(
            shared_cloud, "POST /deployments/tramontane-demo/scale", {"replicas": replicas}
        )
        assert check_error(reply, 400, "invalid_value", "replicas") == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@pytest.mark.parametrize("route", RIGHT)
def test_no_body_makes_a_bug_show(shared_cloud: Cloud, route: str) -> None:
    """Whatever is sent, the answer is a refusal with the union body, and never a 5xx."""
    fields = st.sampled_from([*RIGHT[route], "other"])

    @given(st.dictionaries(fields, JSON, max_size=5) | JSON, st.booleans())
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    def check(body: Any, is_completed: bool) -> None:
        if is_completed and isinstance(body, dict):
            body = RIGHT[route] | body | {"other": 1}
        if route.startswith(("PATCH", "PUT")) and isinstance(body, dict):
            body = body | {"other": 1}
        reply = send(shared_cloud, route, body)
        assert 400 <= reply.status_code < 500, reply.text
        check_error(reply, reply.status_code, reply.json()["code"], reply.json()["param"])

    check()


@pytest.mark.slow
@pytest.mark.parametrize("route", RIGHT)
def test_no_bytes_make_a_bug_show(shared_cloud: Cloud, route: str) -> None:
    @given(st.binary(max_size=100))
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def check(body: bytes) -> None:
        reply = send(shared_cloud, route, body)
        assert 400 <= reply.status_code < 500 or body.strip() == b"{}", reply.text

    check()


def test_weights_that_cannot_be_served(shared_cloud: Cloud) -> None:
    """The whole table is tests/services/test_models.py; here, how one looks over HTTP."""
    path = shared_cloud.folder / "bad.gguf"
    path.write_bytes(shared_cloud.demo_model.read_bytes()[:-1])
    reply = send(shared_cloud, "POST /models", {"name": "bad", "path": str(path)})
    assert "cut short" in check_error(reply, 400, "unsupported_format", "path")
    good = write_gguf(shared_cloud.folder / "good.gguf")
    wrong = {"name": "bad", "path": str(good), "digest": "sha256:" + "0" * 64}
    check_error(send(shared_cloud, "POST /models", wrong), 400, "digest_mismatch", "digest")


def test_taken_names(shared_cloud: Cloud) -> None:
    for route, name in (
        ("POST /organizations", "default"),
        ("POST /projects", "default"),
        ("POST /deployments", "tramontane-demo"),
    ):
        body = {"name": name} | ({"model": "tramontane-demo"} if "deploy" in route else {})
        reply = send(shared_cloud, route, body)
        assert name in check_error(reply, 409, "name_taken", "name")
        assert reply.headers["x-should-retry"] == "false"


def test_unknown_model(shared_cloud: Cloud) -> None:
    reply = send(shared_cloud, "POST /deployments", {"name": "fresh", "model": "no-such"})
    assert "no-such" in check_error(reply, 404, "model_not_found", "model")
