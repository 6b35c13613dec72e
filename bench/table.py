"""Writes what a run found as tables, between two marks in docs/benchmarks.md."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN = "<!-- made by make bench-gateway: begin -->"
END = "<!-- made by make bench-gateway: end -->"

Results = dict[str, Any]
Cell = Callable[[dict[str, Any]], float | None]


def machine() -> dict[str, Any]:
    """Return what a reader needs to know of the machine."""
    cores = len(os.sched_getaffinity(0))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "cores": cores,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "load": [round(value, 1) for value in os.getloadavg()],
    }


def write(text: str) -> None:
    """Put ``text`` between the marks; what stands around them is kept."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def render(results: Results) -> str:
    """Return the tables of a run as Markdown."""
    at = results["machine"]
    parts = [
        f"`{results['command'].strip()}`, {at['date']} UTC: {at['cores']} cores, {at['system']}, "
        f"Python {at['python']}; load average before the end "
        f"{' '.join(map(str, at['load']))}; medians of {results['rounds']} interleaved rounds. "
        + "; ".join(f"{name} {version}" for name, version in results["versions"].items())
        + ".",
        _whole(results),
        _streams(results),
        _prompts(results),
    ]
    parts += [f"* {name} is missing: {why}." for name, why in results["missing"].items()]
    parts.append(_verdict(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def _whole(results: Results) -> str:
    counts = _numbers(results, "whole")
    best = max(counts, default=0)
    shown = 256 if 256 in counts else best
    head = [f"µs CPU/request, {count} conns" for count in counts]
    head += [f"x nginx at {shown}", f"req/s at {shown}", "added p50 / p99, ms", "at req/s"]
    rows = []
    for name in results["results"]:
        costs = [_cost(results, name, f"whole {count}") for count in counts]
        rows.append(
            [
                name,
                *costs,
                _ratio(results, name, f"whole {shown}", "nginx"),
                _plain(_median(results, name, f"whole {shown}", _throughput), 0),
                _added(results, name, "latency", "p50_ms", "p99_ms"),
                str(results["rates"].get(name, "-")),
            ]
        )
    return _table("Non-streaming, prompts of 200 bytes", head, rows)


def _streams(results: Results) -> str:
    counts = _numbers(results, "stream")
    shown = 256 if 256 in counts else max(counts, default=0)
    most = max(counts, default=0)
    head = [f"µs CPU/chunk, {count} streams" for count in counts]
    head += [f"x haproxy at {shown}", f"added TTFT p50 / p99 at {shown}, ms", f"MB at {most}"]
    rows = []
    for name in results["results"]:
        costs = [_cost(results, name, f"stream {count}", "events") for count in counts]
        rss = _median(results, name, f"stream {most}", lambda one: one["rss_mb"] or None)
        rows.append(
            [
                name,
                *costs,
                _ratio(results, name, f"stream {shown}", "haproxy", "events"),
                _added(results, name, f"stream {shown}", "ttft_p50_ms", "ttft_p99_ms"),
                _plain(rss, 0),
            ]
        )
    return _table("Streaming, a chunk of some 230 bytes each; 10,000 chunks a second", head, rows)


def _prompts(results: Results) -> str:
    sizes = _numbers(results, "prompt")
    head = [f"µs CPU/request, {size:,} bytes" for size in sizes]
    rows = [
        [name, *(_cost(results, name, f"prompt {size}") for size in sizes)]
        for name in results["results"]
    ]
    return _table("Non-streaming, longer prompts, 32 connections", head, rows)


def _verdict(results: Results) -> str:
    """Return what was asked of our gateway, and what was found of each form of it."""
    ours = [name for name, kind in results["kinds"].items() if kind == "ours"]
    found = [(name, _found(results, name)) for name in ours]
    return "\n\n".join(
        f"What was asked, and what this run found of `{name}`:\n\n" + "\n".join(lines)
        for name, lines in found
        if lines
    )


def _found(results: Results, name: str) -> list[str]:
    ours = _value(results, name, "whole 256", "requests")
    chunk = _value(results, name, "stream 256", "events")
    rust = [each for each, kind in results["kinds"].items() if kind == "rust router"]
    lines = []
    if ours is not None:
        lines.append(f"* Non-streaming at 256 connections: {ours:.0f} µs (asked: at most 50)")
        lines += _against(results, ours, ["nginx"], "whole 256", "requests", "at most 2.2x")
        lines += _against(results, ours, rust, "whole 256", "requests", "at most 0.5x")
        lines += _against(results, ours, ["litellm"], "whole 256", "requests", "under 0.005x")
    if chunk is not None:
        lines.append(f"* Streaming at 256 connections: {chunk:.1f} µs per chunk")
        lines += _against(results, chunk, ["haproxy"], "stream 256", "events", "at most 1.4x")
        lines += _against(results, chunk, rust, "stream 256", "events", "at most 1x")
        added = _added(results, name, "stream 256", "ttft_p50_ms", "ttft_p99_ms")
        lines.append(f"* Added TTFT p50 / p99: {added} ms (asked: at most 0.4 / 2)")
    rss = _median(results, name, "stream 1024", lambda one: one["rss_mb"])
    if rss is not None:
        lines.append(f"* Memory at 1,024 streams: {rss:.0f} MB (asked: at most 80)")
    return lines


def _against(  # noqa: PLR0917 - one sentence
    results: Results, ours: float, names: list[str], scenario: str, unit: str, asked: str
) -> list[str]:
    found = {name: _value(results, name, scenario, unit) for name in names}
    known = {name: value for name, value in found.items() if value}
    if not known:
        return []
    name = min(known, key=lambda each: known[each])
    ratio = ours / known[name]
    told = f"{ratio:.2f}x" if ratio > 0.1 else f"{ratio:.4f}x (1/{1 / ratio:.0f})"
    fastest = "the fastest Rust router, " if len(names) > 1 else ""
    return [f"  * {told} of {fastest}{name} with {known[name]:.1f} µs (asked: {asked})"]


def _numbers(results: Results, word: str) -> list[int]:
    names = {name for each in results["results"].values() for name in each}
    return sorted(int(name.split()[1]) for name in names if name.startswith(word + " "))


def _each(results: Results, name: str, scenario: str) -> list[dict[str, Any]]:
    return results["results"].get(name, {}).get(scenario, [])


def _median(results: Results, name: str, scenario: str, of: Cell) -> float | None:
    values = [of(one) for one in _each(results, name, scenario)]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _value(results: Results, name: str, scenario: str, unit: str) -> float | None:
    """Return CPU µs per unit of work, or None where nothing was measured."""
    return _median(
        results,
        name,
        scenario,
        lambda one: one["cpu_s"] / one[unit] * 1e6 if one["cpu_s"] and one[unit] else None,
    )


def _throughput(one: dict[str, Any]) -> float:
    return one["requests"] / one["seconds"]


def _cost(results: Results, name: str, scenario: str, unit: str = "requests") -> str:
    value = _value(results, name, scenario, unit)
    bad = sum(one["errors"] for one in _each(results, name, scenario))
    good = sum(one[unit] for one in _each(results, name, scenario))
    told = "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return told if not bad else f"{told} ({bad:,} errors beside {good:,})"


def _ratio(results: Results, name: str, scenario: str, other: str, unit: str = "requests") -> str:
    ours, theirs = (_value(results, each, scenario, unit) for each in (name, other))
    return f"{ours / theirs:.2f}" if ours and theirs else "-"


def _added(results: Results, name: str, scenario: str, low: str, high: str) -> str:
    """Return what was added to the direct path, quantile by quantile."""
    told = []
    for quantile in (low, high):
        own = _median(results, name, scenario, lambda one, q=quantile: one[q] or None)
        base = _median(results, "direct", scenario, lambda one, q=quantile: one[q] or None)
        if own is None or base is None or name == "direct":
            told.append("-" if own is None or name != "direct" else f"({own:.2f})")
        else:
            told.append(f"{max(0.0, own - base):.2f}")
    return " / ".join(told)


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    if len(head) == 0:
        return ""
    lines = [f"**{title}**", "", "| | " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (len(head) + 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
