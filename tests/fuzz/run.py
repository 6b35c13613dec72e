"""Coverage-guided fuzzing of both parsers: `make fuzz`, or with SECONDS=600.

    python -m tests.fuzz.run [--seconds 60] [--target client engine]

Inputs that reach new code join the corpus (``tests/fuzz/corpus``), which a fast test replays. An
input that breaks a rule is left in ``tests/fuzz/found`` and named at the end: make it a test.
"""

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = tuple[str, int, int]  # file, line before, line
GATEWAY = "tramontane/gateway"
HERE = Path(__file__).parent
TARGETS = ("client", "engine")
BYTES_MAX = 4_096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--loop", choices=TARGETS, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.loop:
        fuzz(options.loop, rest)
        return 0
    broken = [name for name in options.target if not run(name, options.seconds)]
    for name in broken:
        print(f"{name}: an input breaks a rule; it is in {HERE / 'found'}")
    return 1 if broken else 0


def run(name: str, seconds: int) -> bool:
    """Fuzz one target for ``seconds``, then add what was new to its corpus."""
    corpus, found = HERE / "corpus" / name, HERE / "found"
    found.mkdir(exist_ok=True)
    loop = [sys.executable, "-m", "tests.fuzz.run", "--loop", name]
    common = [f"-dict={HERE / (name + '.dict')}", f"-max_len={BYTES_MAX}", "-timeout=10"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as fresh:
        print(f"fuzzing the {name}'s side for {seconds} s", flush=True)
        more = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/{name}-"]
        more += ["-print_final_stats=1", "-report_slow_units=5"]
        done = subprocess.run(
            [*loop, *common, *more, fresh, str(corpus)], check=False, env=environment
        )
        added = keep_new(name, corpus, Path(fresh))
        print(f"{name}: {added} inputs more in the corpus", flush=True)
    return done.returncode == 0


def keep_new(name: str, corpus: Path, fresh: Path) -> int:
    """Copy to ``corpus`` what goes from line to line as none in it does, smallest first."""
    known: set[Step] = set()
    for path in sorted(corpus.iterdir()):
        known |= steps_of(name, path.read_bytes())
    added = 0
    for path in sorted(fresh.iterdir(), key=lambda item: (item.stat().st_size, item.name)):
        data = path.read_bytes()
        steps = steps_of(name, data)
        if not steps <= known:
            known |= steps
            (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
            added += 1
    return added


def steps_of(name: str, data: bytes) -> set[Step]:
    """Return the steps from line to line that ``data`` takes through the gateway's code."""
    steps: set[Step] = set()
    before: dict[Any, int] = {}

    def local(frame: Any, event: str, _: object) -> Any:
        line = frame.f_lineno
        steps.add((frame.f_code.co_filename, before.get(frame, 0), line))
        before[frame] = line
        return local

    def enter(frame: Any, event: str, _: object) -> Any:
        return local if GATEWAY in frame.f_code.co_filename else None

    sys.settrace(enter)
    try:
        checks()[name](data)
    except AssertionError:
        pass  # the loop has told of it
    finally:
        sys.settrace(None)
    return steps


def checks() -> dict[str, Callable[[bytes], object]]:
    """Return what holds an input against the rules, by target."""
    client, engine = (importlib.import_module(f"tests.fuzz.{side}_side") for side in TARGETS)
    client.quiet()
    return {"client": client.check, "engine": engine.check}


def fuzz(name: str, arguments: list[str]) -> None:
    """Run the loop in this process; it ends the process."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("atheris is missing: it exists for Linux on x86-64 with Python 3.11 to 3.13")
    with atheris.instrument_imports(include=["tramontane.gateway"]):
        check = checks()[name]

    def one(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
