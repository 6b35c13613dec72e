"""What gateways say of the demand: taken from gateways only, bounded, and the newest counts."""

from typing import Any

import pytest

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tramontane.store import demands

PATH = "/internal/v1/demand"


def report(cloud: Cloud, *items: dict[str, Any], **fields: Any) -> Any:
    body = {"gateway": "gw", "holder": "one", "deployments": list(items)} | fields
    return cloud.call("POST", PATH, key=GATEWAY_TOKEN, json=body)


def test_the_newest_word_of_each_gateway_counts(cloud: Cloud) -> None:
    body = {"replicas_max": 4, "requests_in_flight": 8}
    demo = cloud.cloud("PUT", "/deployments/tramontane-demo/autoscale", json=body)["id"]
    for in_flight in (3, 5):
        item = {"deployment_id": demo, "requests_in_flight": in_flight, "requests_queued": 1}
        reply = report(cloud, item, {"deployment_id": "dep_of-nobody", "tokens_per_s": 9})
        assert (reply.status_code, reply.json()) == (200, {})
    report(cloud, {"deployment_id": demo, "idle_ms": 40}, holder="two")
    with cloud.db.read() as tx:
        found = demands.list_all(tx)
    told = [(d.holder, d.requests_in_flight, d.requests_queued, d.idle_ms) for d in found]
    assert told == [("one", 5, 1, 0), ("two", 0, 0, 40)]
    assert {d.deployment_id for d in found} == {demo}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"gateway": ""}, "gateway"),
        ({"holder": "a b"}, "holder"),
        ({"holder": "x" * 65}, "holder"),
        ({"deployments": [{}]}, "deployments.0.deployment_id"),
        (
            {"deployments": [{"deployment_id": "d", "requests_in_flight": -1}]},
            "deployments.0.requests_in_flight",
        ),
        (
            {"deployments": [{"deployment_id": "d", "tokens_per_s": 1.5}]},
            "deployments.0.tokens_per_s",
        ),
        ({"deployments": [{"deployment_id": "d", "more": 1}]}, "deployments.0.more"),
        ({"deployments": [{"deployment_id": "d"}] * 1_001}, "deployments"),
    ],
)
def test_what_is_no_report(shared_cloud: Cloud, change: dict[str, Any], param: str) -> None:
    with shared_cloud.unchanged():
        reply = report(shared_cloud, **change)
    check_error(reply, 400, reply.json()["error"]["code"], param)
