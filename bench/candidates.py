"""What is measured: how each gateway is started between the load and the two upstreams.

Each runs alone on one core with one worker, keeps its connections on both sides, checks a key
where it can, and spreads requests over both upstreams. What a peer cannot do is not held against
it: nginx and haproxy only forward.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import peers
from bench.peers import MissingError

EXAMPLE = Path(__file__).with_name("route-table.example.json")
SOURCES = Path(__file__).parents[1] / "src"
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
KEY = json.loads(EXAMPLE.read_text())["bench_key"]
OTHER_KEY = "sk-bench-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Place:
    """What a candidate needs to know to start: a folder, its port, the upstreams' ports."""

    folder: Path
    port: int
    upstreams: tuple[int, int]
    spare_port: int


@dataclass(frozen=True)
class Start:
    """A command line; the headers that a request to it carries; where it is from."""

    command: list[str]
    version: str
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """Something that forwards requests. ``rate`` is what it can bear when latency is measured."""

    name: str
    start: Callable[[Place], Start]
    rate: int = 400
    kind: str = "gateway"


def nginx(place: Place) -> Start:
    """Return a plain nginx proxy: one worker, kept connections, nothing buffered."""
    servers = "".join(f"server 127.0.0.1:{port}; " for port in place.upstreams)
    conf = f"""daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0;
  client_body_buffer_size 256k; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream engines {{ {servers} keepalive 2048; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{place.port} backlog=4096;
    location / {{ proxy_pass http://engines; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""
    path = place.folder / "nginx.conf"
    path.write_text(conf)
    command = ["nginx", "-p", str(place.folder), "-e", "stderr", "-c", str(path)]
    return Start(command, _told([_program("nginx"), "-v"], r"nginx/(\S+)"))


def haproxy(place: Place) -> Start:
    """Return a plain haproxy: one thread, connections reused."""
    servers = "".join(
        f"  server e{number} 127.0.0.1:{port} maxconn 4096\n"
        for number, port in enumerate(place.upstreams)
    )
    conf = f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-no-delay
  http-reuse always
frontend front
  bind 127.0.0.1:{place.port} backlog 4096
  default_backend engines
backend engines
  balance roundrobin
{servers}"""
    path = place.folder / "haproxy.cfg"
    path.write_text(conf)
    version = _told([_program("haproxy"), "-v"], r"version (\S+?)[-+ ]")
    return Start(["haproxy", "-db", "-q", "-f", str(path)], version)


def tramontane(place: Place) -> Start:
    """Return our gateway with everything on: key, limits, budget hold, durable spool, metrics."""
    table = json.loads(EXAMPLE.read_text())
    for replica, port in zip(table["routes"][0]["replicas"], place.upstreams, strict=True):
        replica["address"] = f"127.0.0.1:{port}"
    path = place.folder / "route-table.json"
    path.write_text(json.dumps(table))
    command = [sys.executable, "-m", "tramontane.main", "gateway", "--route-table", str(path)]
    command += ["--port", str(place.port)]
    return Start(command, importlib.metadata.version("tramontane"))


def tramontane_compiled(place: Place) -> Start:
    """Return the same with its hot path compiled, as ``make compiled`` left it."""
    if not COMPILED.is_dir():
        msg = "build/compiled is not there; make compiled builds it"
        raise MissingError(msg)
    plain = tramontane(place)
    newest = max(path.stat().st_mtime for path in SOURCES.rglob("*.py"))
    is_older = newest > (COMPILED / "digest").stat().st_mtime
    version = f"{plain.version}{', older than the sources' if is_older else ''}"
    return Start(plain.command, version, environment={"PYTHONPATH": str(COMPILED)})


def litellm(place: Place) -> Start:
    """Return the LiteLLM proxy: one worker, a master key, both upstreams under one name."""
    home = peers.folder("litellm")
    entries = "".join(
        f"  - model_name: bench\n    litellm_params: {{model: openai/bench, "
        f"api_base: 'http://127.0.0.1:{port}/v1', api_key: replica}}\n"
        for port in place.upstreams
    )
    path = place.folder / "litellm.yaml"
    path.write_text(f"model_list:\n{entries}general_settings: {{master_key: {OTHER_KEY}}}\n")
    command = [str(home / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(place.port), "--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    return Start(
        command, _locked("litellm"), {"Authorization": f"Bearer {OTHER_KEY}"}, environment=quiet
    )


def _router(name: str, module: str, *more: str) -> Callable[[Place], Start]:
    def start(place: Place) -> Start:
        python = peers.folder(name) / "bin" / "python"
        command = [str(python), "-m", module, "--host", "127.0.0.1", "--port", str(place.port)]
        command += ["--worker-urls", *(f"http://127.0.0.1:{port}" for port in place.upstreams)]
        command += ["--policy", "round_robin", "--prometheus-port", str(place.spare_port)]
        command += ["--max-concurrent-requests", "4096", *more]
        return Start(command, _locked(name))

    return start


def portkey(place: Place) -> Start:
    """Return Portkey's gateway on Node; its requests name the upstream themselves."""
    home = peers.folder("portkey")
    gateway = home / "node_modules" / "@portkey-ai" / "gateway"
    version = json.loads((gateway / "package.json").read_text())["version"]
    command = [_program("node"), str(gateway / "build" / "start-server.js"), "--headless"]
    command += [f"--port={place.port}"]
    headers = {
        "Authorization": f"Bearer {KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{place.upstreams[0]}/v1",
    }
    trusted = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    return Start(command, version, headers, environment=trusted)


CANDIDATES = (
    Candidate("nginx", nginx, kind="proxy"),
    Candidate("haproxy", haproxy, kind="proxy"),
    Candidate("tramontane", tramontane, kind="ours"),
    Candidate("tramontane-compiled", tramontane_compiled, kind="ours"),
    Candidate(
        "vllm-router", _router("vllm-router", "vllm_router.launch_router"), kind="rust router"
    ),
    Candidate(
        "sglang-router",
        _router("sglang-router", "sglang_router.launch_router", "--api-key", KEY),
        kind="rust router",
    ),
    Candidate("smg", _router("smg", "smg.launch_router", "--api-key", KEY), kind="rust router"),
    Candidate("portkey", portkey, rate=200),
    Candidate("litellm", litellm, rate=30),
)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        msg = f"{name} is not installed; bench/debian.sh installs it"
        raise MissingError(msg)
    return found


def _told(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _locked(name: str) -> str:
    text = (peers.LOCKS / f"{name}.txt").read_text()
    found = re.search(rf"^{re.escape(name)}==(\S+)", text, re.MULTILINE)
    return found[1] if found else "unknown"
