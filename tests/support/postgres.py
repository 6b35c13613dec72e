"""A real PostgreSQL, started by the tests as an ordinary process in a temporary folder.

PostgreSQL refuses to run as root, so root starts it as the user ``postgres``. It ends with the
test session, and also when the session is killed.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

SUPERUSER = "tramontane"
START_LIMIT_S = 30
STOP_LIMIT_S = 15
PORTS_TRIED = 5  # another process may take a free port before PostgreSQL does
# Nothing of it is kept, so nothing need reach the disk; the tests hold a few dozen connections.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "80",
    "max_wal_size": "256MB",
    "timezone": "UTC",
}
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass
class PostgresServer:
    """A running server; `database` makes a fresh database in it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, name: str) -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{name}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, yield its URL, and drop it."""
        name = f"test_{next(self._numbers)}"
        self.create(name)
        try:
            yield self.url(name)
        finally:
            self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def create(self, name: str) -> None:
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))

    def _run(self, command: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(command)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server in a folder of its own, and end it and remove the folder afterwards."""
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tramontane-postgres-"))
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        who: dict[str, Any] = (
            {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        )
        _initialize(folder, who)
        server = _start(folder, who)
        try:
            yield server
        finally:
            _stop(server.process)
    finally:
        shutil.rmtree(folder)


def _initialize(folder: Path, who: dict[str, Any]) -> None:
    options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", f"-U{SUPERUSER}"]
    subprocess.run(
        [_program("initdb"), "-D", folder / "data", *options],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        timeout=START_LIMIT_S,
        **who,
    )


def _start(folder: Path, who: dict[str, Any]) -> PostgresServer:
    for _ in range(PORTS_TRIED):
        port = _free_port()
        settings = SETTINGS | {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [_program("postgres"), "-D", folder / "data", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - prctl alone, no thread yet
                **who,
            )
        server = PostgresServer(folder, port, process)
        if _answers(server):
            return server
        _stop(process)
    told = (folder / "log").read_text()[-2_000:]
    raise AssertionError(f"PostgreSQL did not start; the end of its log:\n{told}")


def _answers(server: PostgresServer) -> bool:
    """Wait until the server answers; False when it ended or took too long."""
    give_up_at = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up_at and server.process.poll() is None:
        try:
            with psycopg.connect(server.url("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server by its pid: fast shutdown, then immediate shutdown."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            continue


def _end_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded before the fork: after it, only prctl is called

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)

    return tie


def _program(name: str) -> Path:
    """Return the newest installed ``name``; Debian keeps the server's programs off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_version)
    on_path = shutil.which(name)
    if not found and not on_path:
        raise AssertionError(
            f"the tests need PostgreSQL's {name}, and it is neither under /usr/lib/postgresql nor"
            " on the PATH: run `make debian`, or install the Debian package postgresql"
        )
    return found[-1] if found else Path(str(on_path))


def _version(program: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", program.parts[4]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
