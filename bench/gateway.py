"""What a gateway costs, side by side with its peers, in one run: `make bench-gateway`.

Stub engine and load generator are ours, in C; each gateway has one core for itself. Measured are
CPU time of the gateway's processes per request and per streamed chunk, what it adds to latency at
a fixed rate and to the time to the first event, and memory. Rounds are interleaved, and a cell is
the median over them. Machines differ and are noisy: read ratios within one run.

    python -m bench.gateway [--quick] [--rounds 3] [--only nginx tramontane ...] [--no-write]
"""

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import load, table
from bench.candidates import CANDIDATES, Candidate
from bench.load import Running, Scenario
from bench.peers import FOLDER, MissingError

DIRECT = "direct"
WHOLE = (1, 32, 256, 1_024)
STREAMS = (1, 32, 256, 1_024)
PROMPTS = (2_000, 20_000, 100_000)


def scenarios(seconds: float, *, is_quick: bool) -> list[Scenario]:
    """Return what each candidate is put through in each round."""
    counts = (32, 256) if is_quick else WHOLE
    streams = (256,) if is_quick else STREAMS
    prompts = (100_000,) if is_quick else PROMPTS
    return [
        *(Scenario(f"whole {count}", count, seconds) for count in counts),
        *(Scenario(f"prompt {size}", 32, seconds, prompt_bytes=size) for size in prompts),
        Scenario("latency", 32, seconds * 2, is_paced=True),
        *(Scenario(f"stream {count}", count, seconds * 1.5, is_stream=True) for count in streams),
    ]


def main() -> int:
    names = [candidate.name for candidate in CANDIDATES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, less of everything")
    parser.add_argument("--rounds", type=int, help="interleaved rounds [3; --quick: 1]")
    parser.add_argument("--seconds", type=float, help="length of one window [4; --quick: 1.5]")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="into the docs")
    parser.add_argument("--steady", type=float, metavar="MINUTES", help="only watch our memory")
    options = parser.parse_args()
    chosen = [candidate for candidate in CANDIDATES if candidate.name in options.only]
    try:
        load.build()
    except MissingError as error:
        print(error, file=sys.stderr)
        return 1
    if options.steady is not None:
        return watch_memory(options.steady)
    seconds = options.seconds or (1.5 if options.quick else 4.0)
    planned = scenarios(seconds, is_quick=options.quick)
    results = run(chosen, planned, options.rounds or (1 if options.quick else 3))
    results["command"] = "python -m bench.gateway " + shlex.join(sys.argv[1:])
    (FOLDER / "last-run.json").write_text(json.dumps(results, indent=1))
    text = table.render(results)
    print("\n" + text)
    is_whole = not options.quick and options.only == names
    if options.write if options.write is not None else is_whole:
        table.write(text)
        print(f"written into {table.PAGE}")
    return 0


def run(chosen: list[Candidate], planned: list[Scenario], rounds: int) -> dict[str, Any]:
    """Start all candidates, then go through all scenarios with each, round by round."""
    began, ports = time.monotonic(), (load.free_port(), load.free_port())
    missing: dict[str, str] = {}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(load.stub(ports))
        up: list[Running] = []
        for candidate in chosen:
            _say(began, f"starting {candidate.name}")
            try:
                one = load.running(candidate, folder / candidate.name, ports)
                up.append(stack.enter_context(one))
            except MissingError as error:
                missing[candidate.name] = str(error)
                _say(began, f"{candidate.name} is missing: {error}")
        for number in range(rounds):
            for scenario in planned:
                for one in (None, *up):
                    result = _measure(scenario, one, ports[0], folder)
                    who = one.candidate.name if one else DIRECT
                    found.setdefault(who, {}).setdefault(scenario.name, []).append(result)
                    told = f"round {number + 1}/{rounds}, {scenario.name:<14} {who:<14}"
                    _say(began, f"{told} {_gist(scenario, result)}")
        versions = {one.candidate.name: one.version for one in up}
    return {
        "results": found,
        "missing": missing,
        "versions": versions,
        "kinds": {candidate.name: candidate.kind for candidate in chosen},
        "rates": {candidate.name: candidate.rate for candidate in chosen},
        "rounds": rounds,
        "machine": table.machine(),
    }


def _measure(scenario: Scenario, one: Running | None, port: int, folder: Path) -> dict[str, Any]:
    if one is None:
        return load.measure(scenario, port, {"Authorization": "Bearer x"}, None, folder)
    return load.measure(scenario, one.place.port, one.headers, one, folder)


def _gist(scenario: Scenario, result: dict[str, Any]) -> str:
    units = result["events"] if scenario.is_stream else result["requests"]
    each = f"{result['cpu_s'] / units * 1e6:9.1f} us CPU each" if units else "nothing came back"
    if scenario.is_stream:
        waited = f"TTFT {result['ttft_p50_ms']:.2f} / {result['ttft_p99_ms']:.2f} ms"
    else:
        waited = f"{result['p50_ms']:.2f} / {result['p99_ms']:.2f} ms"
    bad = f", {result['errors']} errors: {result['last_error']}" if result["errors"] else ""
    return f"{each}, {units / result['seconds']:8.0f}/s, {waited}{bad}"


def watch_memory(minutes: float) -> int:
    """Hold 1,024 streams on our gateway for so long, and print its memory every 15 seconds."""
    began, ports = time.monotonic(), (load.free_port(), load.free_port())
    ours = next(candidate for candidate in CANDIDATES if candidate.name == "tramontane")
    seen: list[float] = []
    with tempfile.TemporaryDirectory() as name, load.stub(ports):
        folder = Path(name)
        with load.running(ours, folder / "ours", ports) as one:
            while time.monotonic() - began < minutes * 60:
                scenario = Scenario("steady", 1_024, 15, is_stream=True)
                result = _measure(scenario, one, ports[0], folder)
                seen.append(result["rss_mb"])
                _say(began, f"{one.rss_mb():.1f} MB, {_gist(scenario, result)}")
    print(f"memory at 1,024 streams: first {seen[0]:.1f}, last {seen[-1]:.1f} MB")
    return 0


def _say(began: float, text: str) -> None:
    print(f"[{time.monotonic() - began:6.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
