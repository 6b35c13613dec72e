"""``tramontane up``: the whole of Tramontane on one machine, in the foreground.

Opens the home and the sockets, starts the control plane and the gateway under supervision,
waits until the demo deployment answers, prints how to call it, and on SIGINT or SIGTERM drains
and leaves no process behind.
"""

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import ssl
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Final

from tramontane.processes.startup import cannot_listen, listen, reachable, refuse, say
from tramontane.processes.supervisor import Child, ChildFailedError, Supervisor
from tramontane.runtime.home import Credentials, Home, HomeError
from tramontane.runtime.parent import adopt_orphans
from tramontane.runtime.settings import Settings, SettingsError, load

_POLL_S: Final = 0.1  # pause between two looks at /ready during the start
_PATIENCE_S: Final = 60.0  # after this long without an answer, say what is being waited for
_LAST_GRACE_S: Final = 15.0  # on top of the drain, before a child is killed


def run(home: Path | None, host: str | None, port: int | None) -> int:
    """Run until stopped; options that are None come from the settings. Returns the exit status."""
    try:
        settings = load({"home": home, "host": host, "port": port})
        folder = Home(settings.home)
        folder.open()
    except (SettingsError, HomeError) as error:
        return refuse(str(error))
    try:
        with listen(settings.host, settings.port) as public, listen("127.0.0.1", 0) as own:
            return _Up(settings, folder, public, own).run()
    except OSError as error:
        return refuse(cannot_listen(settings.host, settings.port, error))
    finally:
        folder.close()


class _Up:
    """One run of ``tramontane up``."""

    def __init__(
        self, settings: Settings, home: Home, public: socket.socket, own: socket.socket
    ) -> None:
        self._settings = settings
        self._home = home
        self._public = public
        self._port: int = public.getsockname()[1]
        self._began_s = time.monotonic()
        environment = _exported(settings, self._port)
        self._control = _child("control plane", "control", settings, environment, own)
        environment.pop("TRAMONTANE_DATABASE_URL")  # the gateway has no database to know of
        self._gateway = _child("gateway", "gateway", settings, environment, public)
        url = f"http://127.0.0.1:{own.getsockname()[1]}"
        self._gateway.argv = (*self._gateway.argv, "--control", url)
        self._supervisor = Supervisor((self._control, self._gateway), say)

    def run(self) -> int:
        adopt_orphans()
        self._supervisor.listen_to_signals()
        say(f"Tramontane starts; home {self._settings.home}, logs in {self._home.logs}")
        status = 0
        try:
            self._supervisor.start_all()
            if self._wait_until_ready():
                self._announce()
            while not self._supervisor.stop_requests:
                self._supervisor.tend(None)
        except ChildFailedError as error:
            say(f"{error} cannot run; see the line above")
            status = 1
        self._stop()
        return status

    def _wait_until_ready(self) -> bool:
        told, complained = "", False
        while not self._supervisor.stop_requests:
            answer = self._ask_ready()
            if answer is None:
                return True
            if answer != told:
                say(f"waiting: {answer}")
                told = answer
            if not complained and time.monotonic() - self._began_s > _PATIENCE_S:
                say(f"still not ready; the logs are in {self._home.logs}")
                complained = True
            self._supervisor.tend(_POLL_S)
        return False

    def _ask_ready(self) -> str | None:
        """Return None once the demo deployment answers, else what is being waited for."""
        host = reachable(self._settings.host)
        connection = self._connection(host)
        try:
            connection.request("GET", "/ready")
            reply = connection.getresponse()
            if reply.status == http.HTTPStatus.OK:
                return None
            reason = json.loads(reply.read(65_536)).get("reason")
            return reason if isinstance(reason, str) else "the gateway is not ready"
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            return "the gateway starts"
        finally:
            connection.close()

    def _connection(self, host: str) -> http.client.HTTPConnection:
        if self._settings.tls_certificate is None:
            return http.client.HTTPConnection(host, self._port, timeout=2)
        # The port is our own and no secret goes there; the certificate names another host.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, self._port, timeout=2, context=context)

    def _announce(self) -> None:
        seconds = time.monotonic() - self._began_s
        credentials = self._home.read_credentials()
        say(f"ready after {seconds:.1f} s")
        if credentials is None:
            say(f"{self._home.credentials_path} is missing; stop and start again to renew the keys")
            return
        print(_greeting(credentials, self._home, demo=self._settings.demo), flush=True)

    def _stop(self) -> None:
        if self._supervisor.stop_requests < 2:
            say("stopping: requests in flight are finished first; Ctrl-C again ends at once")
        self._public.close()
        drain_s = self._settings.drain_timeout_s
        self._supervisor.stop(self._gateway, drain_s + _LAST_GRACE_S)
        # To the control plane SIGINT says that the machine stops: it drains the engines first.
        self._supervisor.stop(self._control, 2 * drain_s + _LAST_GRACE_S, signal.SIGINT)
        left = _end_leftovers(self._home.secrets().installation_id)
        say(f"stopped; ended {left} leftover processes" if left else "stopped")


def _child(
    name: str, command: str, settings: Settings, environment: dict[str, str], own: socket.socket
) -> Child:
    argv = [sys.executable, "-m", "tramontane.main", command]
    argv += ["--home", str(settings.home), "--fd", str(own.fileno()), "--parent", str(os.getpid())]
    return Child(name, argv, (own.fileno(),), dict(environment))


def _exported(settings: Settings, port: int) -> dict[str, str]:
    """Return our environment with every setting made explicit, so that children agree with us."""
    environment = dict(os.environ)
    for field in fields(settings):
        if field.name == "slurm":
            continue  # sections of the file: each child reads the same one
        value = port if field.name == "port" else getattr(settings, field.name)
        if value is not None:
            environment[f"TRAMONTANE_{field.name.upper()}"] = str(value)
    return environment


def _greeting(credentials: Credentials, home: Home, *, demo: bool) -> str:
    base_url, key = credentials.base_url, credentials.api_key
    lines = [
        "",
        f"  base URL   {base_url}",
        f"  API key    {key}",
        f"  all keys   {home.credentials_path}",
    ]
    if demo:
        question = '{"model": "tramontane-demo", "messages": '
        question += '[{"role": "user", "content": "What is Tramontane?"}]}'
        messages = '[{"role": "user", "content": "What is Tramontane?"}]'
        headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
        call = f'client.chat.completions.create(model="tramontane-demo", messages={messages})'
        lines += [
            "",
            "  curl:",
            f"curl -s {base_url}/chat/completions {headers} -d {shlex.quote(question)}",
            "",
            "  Python (pip install openai):",
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{base_url}", api_key="{key}")',
            f"print({call}.choices[0].message.content)",
        ]
    lines += ["", "  Terminal:  tramontane chat tramontane-demo      Stop: Ctrl-C", ""]
    return "\n".join(lines)


def _end_leftovers(installation_id: str) -> int:
    """End every process that carries our installation's id; returns how many there were."""
    mark = f"TRAMONTANE_INSTALLATION={installation_id}".encode()
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
    return ended
