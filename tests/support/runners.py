"""Real runners and tiny engines for tests, and a look at every process that they leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.waiting import LIMIT_S, until
from tramontane.domain.launch import SECRET_ENV, LaunchSpec, LoadProbe
from tramontane.domain.resources import Resources
from tramontane.runner import linux
from tramontane.runtime.clock import SystemIds

RUNNER = str(Path(linux.__file__).with_name("__main__.py"))
TINY_ENGINE = Path(__file__).with_name("tiny_engine.py")
SECRET = "only-the-gateway-knows-this"


def new_id() -> str:
    return SystemIds().new("rep")


def tiny_launch(
    *words: str, ready_timeout_s: int = 10, drain_timeout_s: int = 10, probes: bool = True
) -> LaunchSpec:
    """Return the launch of a tiny engine with the faults that ``words`` name."""
    argv = ("{python}", str(TINY_ENGINE), "--host", "{host}", "--port", "{port}", *words)
    load = LoadProbe("/metrics", "tiny:requests_running", "tiny:requests_waiting")
    return LaunchSpec(
        argv=argv,
        env=((SECRET_ENV, SECRET), ("TINY_COLOUR", "green")),
        resources=Resources(),
        health_path="/health",
        load=load if probes else None,
        ready_timeout_s=ready_timeout_s,
        drain_timeout_s=drain_timeout_s,
    )


def get(address: str, path: str, timeout_s: float = 10) -> str:
    """GET ``path`` from an engine, as the gateway would."""
    headers = {"Authorization": f"Bearer {SECRET}"}
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        return reply.read().decode()


def processes_of(replica_id: str) -> list[int]:
    """Return the living processes whose environment names the replica, or the attempt."""
    kind = "ATTEMPT" if replica_id.startswith("att_") else "REPLICA"
    mark = f"TRAMONTANE_{kind}={replica_id}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                is_ours = mark in (entry / "environ").read_bytes().split(b"\0")
                if is_ours and linux.start_ticks(int(entry.name)) is not None:
                    found.append(int(entry.name))
    return found


def zombies() -> list[int]:
    """Return ended children of this process that nobody collected."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        fields = linux.stat_fields(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[0] == "Z" and int(fields[1]) == os.getpid():
            found.append(int(entry.name))
    return found


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


class Run:
    """One run directory and its runner, started as a child in the foreground."""

    def __init__(self, tmp_path: Path, launch: LaunchSpec | str) -> None:
        self.replica_id = new_id()
        self.dir = tmp_path / self.replica_id
        self.dir.mkdir(mode=0o700, parents=True)
        text = launch if isinstance(launch, str) else json.dumps(_plain(launch))
        (self.dir / "launch.json").write_text(text)
        self.children: list[subprocess.Popen[bytes]] = []
        self.environment = {"PATH": os.environ["PATH"], "TRAMONTANE_REPLICA": self.replica_id}

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a runner; ``words`` are further words of its command line."""
        script = [sys.executable, "-I", "-S", RUNNER, "--run-dir", str(self.dir)]
        with (self.dir / "runner.log").open("ab") as log:
            child = subprocess.Popen(
                [*script, "--replica", self.replica_id, *words],
                env=self.environment,
                stderr=log,
                **options,
            )
        self.children.append(child)
        return child

    @property
    def report(self) -> dict[str, Any]:
        """Return the report as it is now, empty before the first one."""
        try:
            return json.loads((self.dir / "report.json").read_text())
        except FileNotFoundError:
            return {}

    def until_state(self, run_state: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Return the first report that tells of ``run_state``."""

        def look() -> dict[str, Any] | None:
            report = self.report
            return report if report.get("run_state") == run_state else None

        return until(look, run_state, limit_s)

    def until_gone(self, limit_s: float = LIMIT_S) -> None:
        """Wait until no process carries the replica's id any more."""
        for child in self.children:
            child.wait(limit_s)
        until(lambda: not processes_of(self.replica_id), "its end", limit_s)

    def close(self) -> None:
        """End whatever is left, so that no test disturbs the next."""
        for pid in processes_of(self.replica_id):
            kill(pid)
        for child in self.children:
            child.wait(LIMIT_S)


@contextlib.contextmanager
def open_run(tmp_path: Path, launch: LaunchSpec | str) -> Iterator[Run]:
    """Yield a run directory; nothing of it is left afterwards."""
    run = Run(tmp_path, launch)
    try:
        yield run
    finally:
        run.close()


def _plain(launch: LaunchSpec) -> dict[str, Any]:
    probe = launch.load
    return {
        "argv": list(launch.argv),
        "env": [list(pair) for pair in launch.env],
        "health_path": launch.health_path,
        "load": None
        if probe is None
        else {
            "path": probe.path,
            "running_series": probe.running_series,
            "waiting_series": probe.waiting_series,
        },
        "ready_timeout_s": launch.ready_timeout_s,
        "drain_timeout_s": launch.drain_timeout_s,
        "device_indexes": list(launch.device_indexes),
    }
