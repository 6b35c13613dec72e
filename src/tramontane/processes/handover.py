"""Hands a listening socket from a running gateway to its successor, so that no connection is lost.

Closing a socket that listens resets the connections that wait in its queue, also when others share
the port by SO_REUSEPORT (the kernel moves them only if ``net.ipv4.tcp_migrate_req`` is set, see
its ip-sysctl document). So a gateway that is started with the name and the port of a running one
takes over that very socket, queue and all, over a Unix socket in their folder (SCM_RIGHTS of
unix(7)). Both accept until the older one is stopped. Gateways with different names have sockets of
their own, among which the kernel deals connections out.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tramontane.processes.startup import listen_or_tell

_WAIT_S: Final = 2.0  # for a gateway that is there but does not answer
_GREETING: Final = b"tramontane-listener"
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


@dataclass(frozen=True, slots=True)
class Shared:
    """A listening socket that others may share. ``before`` is the process that it came from."""

    listener: socket.socket
    before: int | None


def take_or_listen(folder: Path, name: str, host: str, port: int) -> Shared:
    """Return the socket of the running gateway ``name`` at ``port``, or a new one. Raises OSError.

    ``port`` 0 is always a new one.
    """
    found = _take(folder, name, host, port) if port else None
    return found or Shared(listen_or_tell(host, port, shares=True), None)


class Handover:
    """Gives the listening socket to whoever of our user asks for it in our folder."""

    def __init__(self, folder: Path, name: str, listener: socket.socket) -> None:
        self._listener = listener
        self._asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asked.setblocking(False)  # noqa: FBT003 - the library's signature
        self._path = _path(folder, name, listener.getsockname()[1])
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> "Handover":
        """Listen under the name, in the place of a gateway before us. Raises OSError."""
        fresh = self._path.with_suffix(f".{os.getpid()}")
        with _short(fresh) as address:
            self._asked.bind(address)
        fresh.chmod(0o600)
        self._asked.listen(4)
        fresh.replace(self._path)
        self._loop.add_reader(self._asked, self._give)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give no more. The name stays, for it may be our successor's by now."""
        self._loop.remove_reader(self._asked)
        self._asked.close()

    def _give(self) -> None:
        with contextlib.suppress(OSError):
            asking, _ = self._asked.accept()
            with asking:
                if _peer(asking)[1] == os.getuid():
                    asking.settimeout(_WAIT_S)
                    socket.send_fds(asking, [_GREETING], [self._listener.fileno()])


def _take(folder: Path, name: str, host: str, port: int) -> Shared | None:
    path = _path(folder, name, port)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(_WAIT_S)
        try:
            with _short(path) as address:
                asking.connect(address)
            before = _peer(asking)[0]
            greeting, fds, _, _ = socket.recv_fds(asking, len(_GREETING), 1)
        except OSError:  # nobody is there any more
            return None
    found = [socket.socket(fileno=fd) for fd in fds]
    if greeting == _GREETING and found and _listens_at(found[0], host, port):
        return Shared(found[0], before)
    for other in found:
        other.close()
    return None


def _listens_at(listener: socket.socket, host: str, port: int) -> bool:
    """Tell whether a socket that was handed over is the one that the settings ask for."""
    with contextlib.suppress(OSError):
        wanted = {item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        address, its_port = listener.getsockname()[:2]
        return its_port == port and address in wanted
    return False


def _path(folder: Path, name: str, port: int) -> Path:
    return folder / f"listener-{name}-{port}.sock"


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield an address for ``path`` that fits the 107 bytes which unix(7) allows."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group at the other end (SO_PEERCRED of unix(7))."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(data)
