"""Usage: reported by gateways once for ever, read by tenants."""

from dataclasses import asdict
from typing import Any

import pytest

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error

HOUR_MS = 3_600_000


def report(cloud: Cloud, *events: Any) -> Any:
    reply = cloud.call(
        "POST", "/internal/v1/usage-events", key=GATEWAY_TOKEN, json={"events": list(events)}
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def receipt(accepted: int, duplicates: int = 0) -> dict[str, Any]:
    return {"accepted": accepted, "duplicates": duplicates, "rejected": []}


def test_each_event_counts_once(cloud: Cloud) -> None:
    first, second = asdict(cloud.usage_event()), asdict(cloud.usage_event())
    assert report(cloud, first) == receipt(1)
    assert report(cloud, first, second) == receipt(1, 1)
    assert report(cloud, second, second | {"prompt_tokens": 9_999}) == receipt(0, 2)
    assert report(cloud) == receipt(0)
    (total,) = cloud.cloud("GET", "/usage")["data"]
    assert (total["requests"], total["prompt_tokens"], total["completion_tokens"]) == (2, 6, 10)


def test_an_event_twice_in_one_report(cloud: Cloud) -> None:
    event = asdict(cloud.usage_event())
    assert report(cloud, event, event) == receipt(1, 1)


WRONG: dict[str, dict[str, Any]] = {
    "id": {"id": ""},
    "model": {"model": "a\0b"},
    "outcome": {"outcome": "lost"},
    "status": {"status": 700},
    "is_stream": {"is_stream": 1},
    "prompt_tokens": {"prompt_tokens": -1},
    "completion_tokens": {"completion_tokens": 1 << 63},
    "cached_tokens": {"cached_tokens": 1.5},
    "token_source": {"token_source": None},
    "started_at_ms": {"started_at_ms": "now"},
    "duration_ms": {"duration_ms": None},
    "gateway": {"gateway": "x" * 257},
    "extra": {"extra": 1},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_malformed_event_does_not_hold_up_the_others(cloud: Cloud, field: str) -> None:
    good, other = asdict(cloud.usage_event()), asdict(cloud.usage_event())
    found = report(cloud, good, other | WRONG[field], 5, None, [], asdict(cloud.usage_event()))
    assert (found["accepted"], found["duplicates"]) == (2, 0)
    assert [item["index"] for item in found["rejected"]] == [1, 2, 3, 4]
    assert found["rejected"][0]["reason"].startswith(f"{field}: ")


def test_a_missing_field(cloud: Cloud) -> None:
    event = asdict(cloud.usage_event())
    del event["model"]
    assert report(cloud, event)["rejected"] == [{"index": 0, "reason": "model: Field required"}]


def test_at_most_a_thousand_events(cloud: Cloud) -> None:
    events = [asdict(cloud.usage_event()) for _ in range(1_001)]
    with cloud.unchanged():
        reply = cloud.call(
            "POST", "/internal/v1/usage-events", key=GATEWAY_TOKEN, json={"events": events}
        )
        assert "1000" in check_error(reply, 400, "invalid_value", "events")
    assert report(cloud, *events[:1_000]) == receipt(1_000)


def test_pages_of_events(cloud: Cloud) -> None:
    events = [cloud.usage_event() for _ in range(5)]
    cloud.add_usage(*events)
    first = cloud.cloud("GET", "/usage/events?limit=3", key=cloud.keys.api_key)
    assert first["has_more"]
    shown = {"object": "usage_event", **asdict(events[0])}
    del shown["holder"]  # how gateways account for slices is their own affair
    assert first["data"][0] == shown
    rest = cloud.cloud("GET", f"/usage/events?limit=3&after={first['last_id']}")
    assert not rest["has_more"]
    assert [item["id"] for item in first["data"] + rest["data"]] == [it.id for it in events]


def test_sums(cloud: Cloud) -> None:
    at_ms = cloud.clock.now_ms() // HOUR_MS * HOUR_MS
    cloud.add_usage(
        cloud.usage_event(started_at_ms=at_ms, model="a"),
        cloud.usage_event(started_at_ms=at_ms + HOUR_MS, model="a", prompt_tokens=10),
        cloud.usage_event(started_at_ms=at_ms + HOUR_MS, model="b", project_id="prj_other"),
    )

    def requests(query: str, key: str | None = None) -> list[tuple[Any, int]]:
        group = query.partition("group_by=")[2].partition("&")[0] or "model"
        names = {"hour": "hour_ms", "project": "project_id", "api_key": "api_key_id"}
        found = cloud.cloud("GET", f"/usage?{query}", key=key)["data"]
        return [(item.get(names.get(group, group)), item["requests"]) for item in found]

    assert requests("") == [("a", 2), ("b", 1)]
    assert requests("", cloud.keys.api_key) == [("a", 2)]
    assert requests("group_by=hour") == [(at_ms, 1), (at_ms + HOUR_MS, 2)]
    assert requests("group_by=none") == [(None, 3)]
    assert requests("group_by=api_key") == [(cloud.member.key_id, 3)]
    assert sorted(requests("group_by=project")) == sorted([(cloud.project.id, 2), ("prj_other", 1)])
    assert requests(f"to_ms={at_ms + 1}") == [("a", 1)]
    assert requests(f"from_ms={at_ms + 1}&group_by=none") == [(None, 2)]
    assert requests(f"from_ms={at_ms + 2 * HOUR_MS}") == []
    assert requests("project=default") == [("a", 2)]
    short = cloud.cloud("GET", "/usage?limit=1")
    assert (len(short["data"]), short["has_more"]) == (1, True)
