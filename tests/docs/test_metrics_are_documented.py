"""docs/metrics.md and the code name the same metrics; the dashboard asks for no others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tramontane.gateway.telemetry.names import METRICS, Kind, Metric
from tramontane.gateway.telemetry.tracing import ATTRIBUTES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "grafana" / "tramontane-gateway.json").read_text(encoding="utf-8")
)
PARTS = {
    f"{metric.name}{part}": metric
    for metric in METRICS
    for part in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
NAME = re.compile(r"\b(?:tramontane|process)_[a-z_]+\b")
TARGET_LABELS = {"le", "instance", "job"}  # of Prometheus itself


def charts() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in charts() for target in panel["targets"]]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_has_its_row(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |" in PAGE


def test_the_page_names_no_metric_that_is_gone() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (?:counter|gauge|histogram) \|", PAGE, re.MULTILINE)
    assert rows == [metric.name for metric in METRICS]
    known = {metric.name for metric in METRICS} | {
        metric.name.removeprefix("tramontane_gateway_") for metric in METRICS
    }
    for name in NAME.findall(PAGE):
        assert name in known or name == "tramontane_gateway", name


def test_names_follow_the_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert (metric.kind is Kind.HISTOGRAM) is bool(metric.bounds)
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert not re.search(r"_(ms|minutes|kb|mb)(_|$)", metric.name)


def test_the_page_names_the_attributes_of_spans() -> None:
    for name in ATTRIBUTES:
        assert f"`{name}`" in PAGE
    named = set(re.findall(r"`((?:tramontane|gen_ai|http)\.[a-z_.]+)`", PAGE))
    assert named == set(ATTRIBUTES)


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana's import asks for: the fields of its dashboard model, schema 39."""
    assert DASHBOARD["id"] is None
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["time"] == {"from": "now-1h", "to": "now"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in {"row", "timeseries"}
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in charts():
        assert panel["datasource"] == source
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(refs) == len(set(refs))
        assert all(target["datasource"] == source for target in panel["targets"])
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(?!__)\{?([a-z]+)", json.dumps(DASHBOARD)))
    assert used == set(variables)


def test_the_dashboard_asks_for_documented_metrics() -> None:
    asked = {name for text in expressions() for name in NAME.findall(text)}
    queries = [
        item["definition"] for item in DASHBOARD["templating"]["list"] if "definition" in item
    ]
    asked |= {name for text in queries for name in NAME.findall(text)}
    assert asked <= set(PARTS)
    shown = {PARTS[name].name for name in asked}
    assert {metric.name for metric in METRICS} == shown, "every metric has its place"


@pytest.mark.parametrize("expression", expressions())
def test_each_query_uses_labels_that_its_metrics_have(expression: str) -> None:
    plain = re.sub(r'"[^"]*"', '""', expression)
    for opening, closing in ("()", "{}", "[]"):
        assert plain.count(opening) == plain.count(closing)
    for name, labels in re.findall(r"([a-z_]+)\{([^}]*)\}", plain):
        for label in re.findall(r"([a-z_]+)\s*[!=]", labels):
            assert label in PARTS[name].labels
    names = NAME.findall(plain)
    has = TARGET_LABELS.union(*(PARTS[name].labels for name in names))
    for grouped in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", plain):
        assert {label.strip() for label in grouped.split(",")} <= has
    for name in names:
        is_rate = f"rate({name}" in plain
        assert is_rate is (PARTS[name].kind is not Kind.GAUGE), name
