"""The page that a measurement writes: medians, ratios, what is missing, and the prose kept."""

from pathlib import Path
from typing import Any

import pytest

from bench import table


def one(cpu_s: float, **more: Any) -> dict[str, Any]:
    empty = {"requests": 0, "events": 0, "errors": 0, "rss_mb": 0.0, "ttft_p50_ms": 0.0}
    rest = {"ttft_p99_ms": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "seconds": 2.0}
    return {**empty, **rest, "cpu_s": cpu_s, **more}


def whole(*costs_us: float) -> list[dict[str, Any]]:
    return [one(cost, requests=1_000_000) for cost in costs_us]


RESULTS: dict[str, Any] = {
    "command": "python -m bench.gateway",
    "machine": {"date": "d", "cores": 2, "system": "s", "python": "3", "load": [0.1]},
    "rounds": 3,
    "versions": {"nginx": "1.2"},
    "missing": {"smg": "could not be installed: no wheel"},
    "kinds": {"nginx": "proxy", "tramontane": "ours", "a": "rust router", "b": "rust router"},
    "rates": {"nginx": 400, "tramontane": 400},
    "results": {
        "direct": {
            "whole 256": [one(0.0, requests=10)],
            "latency": [one(0.0, requests=10, p50_ms=0.1, p99_ms=0.2)],
        },
        "nginx": {"whole 256": whole(20, 10, 30), "latency": [one(1, requests=9, p50_ms=0.3)]},
        "tramontane": {
            "whole 256": whole(44, 40, 90),
            "stream 1024": [one(3.0, events=100_000, rss_mb=61.4)],
        },
        "a": {"whole 256": whole(100)},
        "b": {"whole 256": [one(0.5, requests=10_000, errors=7)]},
    },
}


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_are_medians_and_ratios():
    text = table.render(RESULTS)
    assert row(text, "tramontane")[:3] == ["tramontane", "44.0", "2.20"]
    assert row(text, "nginx")[:4] == ["nginx", "20.0", "1.00", "500,000"]
    assert row(text, "nginx")[4] == "0.20 / -"
    assert row(text, "direct")[4] == "(0.10) / (0.20)"
    assert row(text, "b")[1] == "50.0 (7 errors beside 10,000)"


def test_what_was_asked_is_held_against_what_was_found():
    text = table.render(RESULTS)
    assert "44 µs (asked: at most 50)" in text
    assert "0.88x of the fastest Rust router, b with 50.0 µs (asked: at most 0.5x)" in text
    assert "61 MB (asked: at most 80)" in text
    assert "smg is missing: could not be installed: no wheel." in text
    assert "litellm" not in text


def test_each_form_of_ours_has_its_verdict():
    kinds = RESULTS["kinds"] | {"tramontane-compiled": "ours"}
    found = RESULTS["results"] | {"tramontane-compiled": {"whole 256": whole(30)}}
    text = table.render(RESULTS | {"kinds": kinds, "results": found})
    of_plain, of_compiled = text.split("found of `")[1:]
    assert of_plain.startswith("tramontane`:")
    assert "44 µs" in of_plain
    assert of_compiled.startswith("tramontane-compiled`:")
    assert "1.50x of nginx" in of_compiled


def test_prose_around_the_tables_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    table.write("new")
    assert page.read_text() == f"before\n{table.BEGIN}\n\nnew\n{table.END}\nafter\n"


def test_the_page_has_the_marks():
    text = table.PAGE.read_text(encoding="utf-8")
    assert text.index(table.BEGIN) < text.index(table.END)
