"""A strict reader of the Prometheus text format 0.0.4: whatever is odd fails."""

import re
from dataclasses import dataclass

from tramontane.gateway.telemetry.names import METRICS

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
_PLAIN = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_BY_NAME = {metric.name: metric for metric in METRICS}
_PARTS = {"_bucket", "_sum", "_count"}

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """All samples of a page."""

    text: str
    samples: dict[tuple[str, Labels], float]

    def value(self, name: str, /, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        assert key in self.samples, f"no {name} with {labels}"
        return self.samples[key]

    def label(self, name: str, label: str) -> str:
        """Return the value of a label of a metric's only sample."""
        (labels,) = [dict(labels) for found, labels in self.samples if found == name]
        return labels[label]

    def models(self) -> set[tuple[str, str]]:
        """Return the pairs of project and model that have requests."""
        name = "tramontane_gateway_requests_total"
        found = [dict(labels) for sample, labels in self.samples if sample == name]
        return {(labels["project"], labels["model"]) for labels in found}


def read_page(text: str) -> Page:
    """Read a page of ours: each family once, with help and type, in one block, as documented."""
    assert text.endswith("\n")
    samples: dict[tuple[str, Labels], float] = {}
    seen: list[str] = []
    lines = text[:-1].split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name in _BY_NAME, f"{name} is not documented"
            assert name not in seen, f"{name} stands twice"
            assert lines[number + 1] == f"# TYPE {name} {_BY_NAME[name].kind}"
            seen.append(name)
        elif not line.startswith("# TYPE "):
            name, labels, value = _read_sample(line)
            assert _family(name, seen[-1]), f"{name} stands below {seen[-1]}"
            assert (name, labels) not in samples, f"{line} stands twice"
            names = {label for label, _ in labels} - {"le"}
            assert names == set(_BY_NAME[seen[-1]].labels)
            samples[name, labels] = value
    assert seen == [metric.name for metric in METRICS]
    _check_histograms(samples)
    return Page(text, samples)


def _read_sample(line: str) -> tuple[str, Labels, float]:
    found = _SAMPLE.fullmatch(line)
    assert found, f"not a sample: {line}"
    name, inside, value = found.groups()
    labels: list[tuple[str, str]] = []
    at = 0
    while inside and at < len(inside):
        label = _LABEL.match(inside, at)
        assert label, f"not labels: {line}"
        plain = re.sub(r"\\.", lambda escape: _PLAIN[escape[0]], label[2])
        labels.append((label[1], plain))
        at = label.end()
    return name, tuple(sorted(labels)), float(value)


def _family(name: str, family: str) -> bool:
    is_histogram = _BY_NAME[family].kind == "histogram"
    return name.removeprefix(family) in _PARTS if is_histogram else name == family


def _check_histograms(samples: dict[tuple[str, Labels], float]) -> None:
    """Buckets grow, and the last one is the count."""
    by_series: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
    for (name, labels), value in samples.items():
        if name.endswith("_bucket"):
            rest = tuple(pair for pair in labels if pair[0] != "le")
            bound = float(dict(labels)["le"])
            by_series.setdefault((name[: -len("_bucket")], rest), []).append((bound, value))
    for (name, labels), buckets in by_series.items():
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (float("inf"), samples[f"{name}_count", labels])
