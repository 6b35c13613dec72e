"""The stub engine, the load generator, and the processes between them.

Both tools are C (``bench/native``), compiled when first needed: one in Python would be slower than
what it measures. The candidate has one core for itself, the stub and the load share another.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.candidates import Candidate, Place, Start
from bench.peers import FOLDER, MissingError

NATIVE = Path(__file__).with_name("native")
CORES = sorted(os.sched_getaffinity(0))
START_LIMIT_S = 180
CHUNKS = 50  # of one stream; the first, the finish, the usage and the end come on top
CHUNKS_PER_S = 10_000  # over all streams: what a slow core still carries in each gateway


@dataclass(frozen=True)
class Scenario:
    """One kind of load. ``rate`` 0: each connection sends its next request at once."""

    name: str
    connections: int
    seconds: float
    prompt_bytes: int = 200
    is_stream: bool = False
    is_paced: bool = False

    @property
    def pace_us(self) -> int:
        """Return the pause between two chunks of one stream."""
        return max(1_000, self.connections * 1_000_000 // CHUNKS_PER_S)

    @property
    def ramp_s(self) -> float:
        """Return over how long connections open: streams over the length of one."""
        return self.pace_us * CHUNKS / 1e6 if self.is_stream else 0.2

    def body(self) -> bytes:
        """Return the request's body."""
        messages = [{"role": "user", "content": "x" * self.prompt_bytes}]
        asked: dict[str, Any] = {"model": "bench", "messages": messages}
        if self.is_stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
            asked |= {"max_tokens": CHUNKS, "seed": self.pace_us}
        return json.dumps(asked).encode()


class Running:
    """A started process, its headers, and its place."""

    def __init__(self, candidate: Candidate, start: Start, place: Place, pid: int) -> None:
        self.candidate = candidate
        self.version = start.version
        self.headers = start.headers
        self.place = place
        self.pid = pid

    def pids(self) -> list[int]:
        """Return the process and all that it started."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += map(int, task.read_text().split())
        return found

    def rss_mb(self) -> float:
        """Return the memory of all its processes."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def build() -> None:
    """Compile the two tools, if their source is newer. Raises `MissingError`."""
    if not shutil.which("gcc"):
        msg = "gcc is missing; bench/debian.sh installs it"
        raise MissingError(msg)
    FOLDER.mkdir(exist_ok=True)
    for name in ("stub", "load"):
        source, target = NATIVE / f"{name}.c", FOLDER / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            flags = ["-O2", "-Wall", "-Wextra", "-o", str(target)]
            subprocess.run(["gcc", *flags, str(source)], check=True)


@contextlib.contextmanager
def stub(ports: tuple[int, int]) -> Iterator[int]:
    """Run the stub engine on both ``ports``; gives its pid."""
    command = [str(FOLDER / "stub"), ",".join(map(str, ports))]
    with process(command, {}, CORES[-1], None) as pid:
        _wait_port(ports[1])
        yield pid


@contextlib.contextmanager
def running(candidate: Candidate, folder: Path, upstreams: tuple[int, int]) -> Iterator[Running]:
    """Run a candidate until it answers a chat. Raises `MissingError`."""
    folder.mkdir(parents=True)
    place = Place(folder, free_port(), upstreams, free_port())
    start = candidate.start(place)
    log = folder / "log"
    with process(start.command, start.environment, CORES[0], log) as pid:
        started = Running(candidate, start, place, pid)
        _wait_answer(started, log)
        yield started


@contextlib.contextmanager
def process(
    command: list[str], environment: dict[str, str], core: int, log: Path | None
) -> Iterator[int]:
    """Run ``command`` on ``core`` for the length of the block, with all it starts."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log is not None else None
        started = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            start_new_session=True,
        )
        try:
            yield started.pid
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.wait(10)


def measure(
    scenario: Scenario, port: int, headers: dict[str, str], watched: Running | None, folder: Path
) -> dict[str, Any]:
    """Load ``port`` once and return what the generator counted, and the memory meanwhile."""
    request = folder / f"request-{scenario.name.replace(' ', '-')}"
    request.write_bytes(_request(scenario, headers))
    warm_s = max(0.7, scenario.ramp_s * 1.1 + 0.3)
    command = ["taskset", "-c", str(CORES[-1]), str(FOLDER / "load"), str(port), str(request)]
    command += [str(scenario.connections), f"{warm_s:.2f}", f"{scenario.seconds:.2f}"]
    command.append(f"ramp_s={scenario.ramp_s:.3f}")
    if scenario.is_stream:
        command.append("stream=1")
    if scenario.is_paced:
        rate = watched.candidate.rate if watched is not None else 400
        command.append(f"rate={rate}")
    if watched is not None:
        command.append("pids=" + ",".join(map(str, watched.pids())))
    loading = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = _Peak(watched)
    output, _ = loading.communicate(timeout=warm_s + scenario.seconds + 60)
    if loading.returncode:
        msg = f"the load generator ended with {loading.returncode}"
        raise RuntimeError(msg)
    return {**json.loads(output), "rss_mb": peak.end()}


class _Peak:
    """The highest memory of a candidate while it is loaded."""

    def __init__(self, watched: Running | None) -> None:
        self._watched = watched
        self._highest = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._watched is not None and not self._is_over.wait(0.25):
            self._highest = max(self._highest, self._watched.rss_mb())

    def end(self) -> float:
        """Return it."""
        self._is_over.set()
        self._thread.join()
        return self._highest


def _request(scenario: Scenario, headers: dict[str, str]) -> bytes:
    body = scenario.body()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _wait_answer(started: Running, log: Path) -> None:
    url = f"http://127.0.0.1:{started.place.port}/v1/chat/completions"
    body = Scenario("first", 1, 0).body()
    headers = {**started.headers, "content-type": "application/json"}
    deadline = time.monotonic() + START_LIMIT_S
    told = "no answer"
    while time.monotonic() < deadline:
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=10) as reply:
                if reply.status == 200 and b"choices" in reply.read():
                    return
        except urllib.error.HTTPError as error:
            told = f"status {error.code}: {error.read()[:200]!r}"
        except OSError as error:
            told = str(error)
        if not Path(f"/proc/{started.pid}").exists() or _is_zombie(started.pid):
            told = "it ended: " + log.read_text(errors="replace")[-300:].replace("\n", " ")
            break
        time.sleep(0.3)
    msg = f"did not start ({told})"
    raise MissingError(msg)


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _wait_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    print(f"nothing listens on {port}", file=sys.stderr)
    raise TimeoutError
