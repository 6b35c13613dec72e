"""Starts the real thing: ``tramontane up`` on a home and a port of its own, and looks at it.

Everything here uses what a user has: the command, its output, its files, the public port and
``/proc``. Nothing reaches into a process.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.waiting import until

DEMO: Final = "tramontane-demo"
START_TIMEOUT_S: Final = 90.0  # the promise for a fresh machine; a warm one takes a few seconds
STOP_TIMEOUT_S: Final = 60.0
# Of util-linux: the kernel sends SIGTERM when the thread that started it ends, however it ended.
_ENDS_WITH_THE_TESTS: Final = ("setpriv", "--pdeathsig", "TERM", "--")
_ROLES: Final = ("up", "control", "gateway", "runner", "engine")


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Process:
    """One process of an installation as ``/proc`` shows it."""

    pid: int
    role: str
    replica_id: str | None

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: not is_alive(self.pid), f"the end of {self.role} {self.pid}", 10)


class System:
    """One installation: a home, a port, and the ``up`` that runs on them, if any."""

    def __init__(self, home: Path, port: int | None = None, **settings: object) -> None:
        self.home = home
        self.port = port or free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.settings = {
            f"TRAMONTANE_{name.upper()}": str(value) for name, value in settings.items()
        }
        self.output = home.parent / f"{home.name}.out"
        self._up: subprocess.Popen[bytes] | None = None
        self._mark = 0  # where this start's output begins
        self._cloud: httpx.Client | None = None

    # Life

    def launch(self) -> None:
        """Start ``up`` and return at once."""
        assert self._up is None or self._up.poll() is not None, "it runs already"
        with self.output.open("ab") as output:
            self._mark = output.tell()
            self._up = subprocess.Popen(
                [*_ENDS_WITH_THE_TESTS, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=self.home.parent,
                start_new_session=True,
            )

    def start(self) -> float:
        """Start ``up`` and wait until it announces itself; returns how many seconds it took."""
        began = time.monotonic()
        self.launch()
        self.wait_until_announced()
        return time.monotonic() - began

    def wait_until_announced(self) -> None:
        """Wait for the lines that ``up`` prints once the demo deployment answers."""

        def announced() -> bool:
            assert self._up is not None
            assert self._up.poll() is None, f"up ended with {self._up.returncode}:\n{self.said()}"
            return "Stop: Ctrl-C" in self.said()

        try:
            until(announced, "up to announce itself", START_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}\n{self.logs()}") from None

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send ``up`` a signal and wait for its end: exit status and seconds."""
        assert self._up is not None
        began = time.monotonic()
        self._up.send_signal(number)
        status = self._up.wait(STOP_TIMEOUT_S)
        return status, time.monotonic() - began

    def kill_up(self) -> None:
        """``kill -9`` of the supervisor."""
        assert self._up is not None
        self._up.kill()
        self._up.wait(10)

    def close(self) -> None:
        """End whatever of the installation still runs, asked or not."""
        if self._cloud is not None:
            self._cloud.close()
            self._cloud = None
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(STOP_TIMEOUT_S)
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if self._up is not None:
            self._up.wait(10)

    def command(self) -> list[str]:
        """Return the command line of this installation's ``up``."""
        command = [sys.executable, "-m", "tramontane.main", "up"]
        return [*command, "--home", str(self.home), "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the environment of ``up``: ours, less the settings of a developer's shell."""
        kept = {name: value for name, value in os.environ.items() if "TRAMONTANE" not in name}
        return kept | self.settings

    # What it says and shows

    def said(self) -> str:
        """Return what ``up`` printed since its last start."""
        with self.output.open("rb") as output:
            output.seek(self._mark)
            return output.read().decode()

    def logs(self) -> str:
        """Return the last lines of every log of the home, for the message of a failed test."""
        told = []
        for path in sorted(self.home.glob("logs/*")) + sorted(self.home.glob("replicas/*/*.log")):
            lines = path.read_text(errors="replace").splitlines()[-20:]
            told.append("\n".join((f"--- {path.relative_to(self.home)}", *lines)))
        return "\n".join(told)

    @property
    def credentials(self) -> dict[str, str]:
        """What ``credentials.json`` holds."""
        return json.loads((self.home / "credentials.json").read_text())

    @property
    def api_key(self) -> str:
        """The project member's key."""
        return self.credentials["api_key"]

    @property
    def base_url(self) -> str:
        """Where clients are pointed."""
        return self.credentials["base_url"]

    def processes(self, role: str | None = None) -> list[Process]:
        """Return the processes of this installation, or those of one role, found in ``/proc``."""
        found = list(_find(self.home, self._up.pid if self._up else None))
        return [process for process in found if role in (None, process.role)]

    def only(self, role: str) -> Process:
        """Return the one process of ``role``."""
        found = self.processes(role)
        assert len(found) == 1, f"{len(found)} processes are {role}: {self.processes()}"
        return found[0]

    # The management API

    def cloud(
        self,
        method: str,
        path: str,
        *,
        status: int | None = None,
        key: str | None = None,
        **sent: Any,
    ) -> Any:
        """Call ``/cloud/v1`` + ``path`` with the operator's key and return the decoded body."""
        if self._cloud is None:
            self._cloud = httpx.Client(base_url=self.root, timeout=30, trust_env=False)
        headers = {"authorization": f"Bearer {key or self.credentials['admin_key']}"}
        reply = self._cloud.request(method, f"/cloud/v1{path}", headers=headers, **sent)
        wanted = reply.is_success if status is None else reply.status_code == status
        assert wanted, f"{method} {path} gave {reply.status_code}: {reply.text}"
        return reply.json() if reply.content else None

    def pages(self, path: str, **query: object) -> list[dict[str, Any]]:
        """Return every item of a list, page by page, and check what the pages promise."""
        items: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.cloud("GET", path, params={"limit": 100, **query, **after})
            items += page["data"]
            if not page["has_more"]:
                return items
            assert page["data"], "has_more on an empty page"
            after = {"after": page["data"][-1]["id"]}

    def usage_events(self) -> list[dict[str, Any]]:
        """Return every usage event of the installation."""
        return self.pages("/usage/events")

    def deployment(self, name: str = DEMO) -> dict[str, Any]:
        """Return one deployment."""
        return self.cloud("GET", f"/deployments/{name}")

    def wait_for_deployment(
        self, name: str, met: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = 60
    ) -> dict[str, Any]:
        """Wait until the deployment ``name`` satisfies ``met``."""

        def look() -> dict[str, Any] | None:
            found = self.deployment(name)
            return found if met(found) else None

        return until(look, f"{name} to be {what}", timeout_s)

    # The data plane

    def chat(self, *, timeout_s: float = 30, **changes: Any) -> httpx.Response:
        """Ask the demo model one short question on a connection of its own."""
        headers = {"authorization": f"Bearer {changes.pop('key', None) or self.api_key}"}
        body = {"model": DEMO, "max_tokens": 8, "temperature": 0} | changes
        body.setdefault("messages", [{"role": "user", "content": "What is Tramontane?"}])
        with httpx.Client(timeout=timeout_s, trust_env=False) as client:
            return client.post(f"{self.root}/v1/chat/completions", headers=headers, json=body)

    def serves(self) -> bool:
        """Tell whether a question is answered right now."""
        try:
            return self.chat().status_code == 200
        except httpx.HTTPError:
            return False


@contextlib.contextmanager
def running(home: Path, **settings: Any) -> Iterator[System]:
    """Run a system on ``home`` for a while; nothing of it is left afterwards."""
    system = System(home, **settings)
    try:
        system.start()
        yield system
    finally:
        system.close()


def is_alive(pid: int) -> bool:
    """Tell whether ``pid`` runs; a zombie does not, once the last of its threads has ended.

    The first thread of a killed process may be a zombie while others still hold its sockets open.
    """
    folder = Path(f"/proc/{pid}")
    try:
        state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        return state not in "ZX" or len(list((folder / "task").iterdir())) > 1
    except OSError:
        return False


def _find(home: Path, up_pid: int | None) -> Iterator[Process]:
    """Find what belongs to ``home``: by its path on the command line, or the mark it was given."""
    marks = [f"{home}".encode()]
    with contextlib.suppress(OSError, ValueError, KeyError):
        secrets = json.loads((home / "secrets.json").read_text())
        marks.append(f"TRAMONTANE_INSTALLATION={secrets['installation_id']}".encode())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = marks[0] in words or any(mark in variables for mark in marks[1:])
        if (ours or int(entry.name) == up_pid) and is_alive(int(entry.name)):
            replica = [v[19:].decode() for v in variables if v.startswith(b"TRAMONTANE_REPLICA=")]
            yield Process(int(entry.name), _role(words), replica[0] if replica else None)


def _role(words: list[bytes]) -> str:
    text = b" ".join(words).decode(errors="replace")
    if "llama_server" in text:
        return "engine"
    if "tramontane/runner/" in text or "tramontane.runner" in text:
        return "runner"
    for role in _ROLES[:3]:
        if role.encode() in words:
            return role
    return "other"
