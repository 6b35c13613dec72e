"""CPU time of the gateway per request, side by side with a plain nginx proxy, in one run.

nginx answers as the engine (a fixed chat completion), so that the upstream is never the limit; wrk
makes the load; each candidate's CPU time is read from /proc before and after. Absolute figures
depend on the machine: read the ratios. Needs Debian's nginx and wrk.

    python -m bench.gateway [--seconds 8] [--connections 32 256]
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import Role, hash_key, make_key
from tramontane.runtime.clock import SystemIds

TICKS = os.sysconf("SC_CLK_TCK")
KEY = make_key(bytes(range(24)))
BODY = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x" * 200}]})
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "y" * 200},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 50, "completion_tokens": 50, "total_tokens": 100},
    }
)


@dataclass(frozen=True)
class Candidate:
    """Something that forwards a request; ``pid`` is None for the direct path."""

    name: str
    port: int
    pid: int | None


@dataclass(frozen=True)
class Row:
    """One measured line; ``cpu_us`` is user + system time of the candidate per request."""

    name: str
    connections: int
    requests: int
    errors: int
    cpu_us: float
    rate: float
    latency_p50: str
    latency_p99: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, nargs="+", default=[32, 256])
    options = parser.parse_args()
    for program in ("nginx", "wrk"):
        if not shutil.which(program):
            print(f"{program} is missing: apt-get install nginx-light wrk", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        engine_port, proxy_port, gateway_port = free_port(), free_port(), free_port()
        stack.enter_context(running_nginx(work / "engine", engine_conf(engine_port), engine_port))
        proxy = stack.enter_context(
            running_nginx(work / "proxy", proxy_conf(proxy_port, engine_port), proxy_port)
        )
        gateway = stack.enter_context(running_gateway(work / "home", gateway_port, engine_port))
        candidates = [
            Candidate("direct", engine_port, None),
            Candidate("nginx (plain proxy)", proxy_port, proxy),
            Candidate("tramontane gateway", gateway_port, gateway),
        ]
        script = work / "load.lua"
        script.write_text(wrk_script())
        rows = [
            measure(candidate, connections, options.seconds, script)
            for connections in options.connections
            for candidate in candidates
        ]
    show(rows)
    return 1 if any(row.errors for row in rows) else 0


def measure(candidate: Candidate, connections: int, seconds: int, script: Path) -> Row:
    """Warm up, then load ``candidate`` for ``seconds`` and read what it cost."""
    url = f"http://127.0.0.1:{candidate.port}/v1/chat/completions"
    command = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script), url]
    subprocess.run([*command, "-d1"], check=True, capture_output=True)
    before = cpu_seconds(candidate.pid)
    output = subprocess.run(
        [*command, f"-d{seconds}"], check=True, capture_output=True, text=True
    ).stdout
    used = cpu_seconds(candidate.pid) - before
    requests = int(re.search(r"(\d+) requests in", output)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return Row(
        candidate.name,
        connections,
        requests,
        int(refused[1]) if refused else 0,
        used / requests * 1e6,
        requests / seconds,
        re.search(r"50%\s+(\S+)", output)[1],
        re.search(r"99%\s+(\S+)", output)[1],
    )


def show(rows: list[Row]) -> None:
    """Print the table, each candidate's cost as a ratio to nginx at the same connections."""
    nginx = {row.connections: row.cpu_us for row in rows if row.name.startswith("nginx")}
    print("| candidate | connections | requests | µs CPU/request | x nginx | req/s | p50 | p99 |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cost = (
            f"{row.cpu_us:.0f} | {row.cpu_us / nginx[row.connections]:.2f}"
            if row.cpu_us
            else "- | -"
        )
        print(
            f"| {row.name} | {row.connections} | {row.requests} | {cost} | {row.rate:.0f} "
            f"| {row.latency_p50} | {row.latency_p99} |"
        )


def cpu_seconds(pid: int | None) -> float:
    """Return user + system time of a process and its children that still run."""
    if pid is None:
        return 0.0
    total = 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (str(pid), *children):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


@contextlib.contextmanager
def running_nginx(folder: Path, conf: str, port: int) -> Iterator[int]:
    """Run one nginx worker with ``conf`` in the foreground; gives the master's pid."""
    folder.mkdir()
    (folder / "nginx.conf").write_text(conf)
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with process(command, {}) as pid:
        wait_for(port)
        yield pid


@contextlib.contextmanager
def running_gateway(home: Path, port: int, engine_port: int) -> Iterator[int]:
    """Run a gateway with a route table on disk and no control plane."""
    (home / "gateway").mkdir(parents=True)
    hmac_key = os.urandom(32)
    secrets = {
        "installation_id": SystemIds().new("ins"),
        "hmac_key": hmac_key.hex(),
        "gateway_token": os.urandom(32).hex(),
    }
    table = RouteTable(
        revision=1,
        hmac_key=hmac_key.hex(),
        keys={
            hash_key(hmac_key, KEY): RouteKey("key_bench", "prj_bench", "org_bench", Role.MEMBER)
        },
        routes=(
            Route(
                project_id="prj_bench",
                model="bench",
                deployment_id="dep_bench",
                upstream_model="bench",
                engine="llamacpp",
                context_length=2048,
                created_at_ms=0,
                replicas=(RouteReplica("rep_bench", f"127.0.0.1:{engine_port}", "secret"),),
            ),
        ),
    )
    (home / "secrets.json").write_text(json.dumps(secrets))
    (home / "gateway" / "route-table.json").write_text(json.dumps(asdict(table)))
    command = [sys.executable, "-m", "tramontane.main", "gateway", "--home", str(home)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--control", "http://127.0.0.1:9"]
    with process(command, {}) as pid:
        wait_for(port)
        time.sleep(1)
        yield pid


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """Run ``command`` for the length of the block."""
    started = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(20)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    """Wait until something accepts on ``port``."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    message = f"nothing listens on {port}"
    raise TimeoutError(message)


def engine_conf(port: int) -> str:
    """Return the configuration of the nginx that answers as the engine."""
    return f"""daemon off; worker_processes 1; pid engine.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; default_type application/json;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{REPLY}'; }} }} }}
"""


def proxy_conf(port: int, engine_port: int) -> str:
    """Return the configuration of the nginx that only forwards."""
    return f"""daemon off; worker_processes 1; pid proxy.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 512; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; }} }} }}
"""


def wrk_script() -> str:
    """Return the request that wrk repeats."""
    return (
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\n'
        f"wrk.body = '{BODY}'\n"
    )


if __name__ == "__main__":
    sys.exit(main())
