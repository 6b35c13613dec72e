"""What the processes share as they start: their socket, their address, and what they say."""

import socket
import sys
from typing import Final

FATAL_EXIT: Final = 78  # EX_CONFIG of sysexits(3): a restart would end the same way
_BACKLOG: Final = 4_096  # connections that may wait while the process that accepts them restarts
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


def listen(host: str, port: int, *, shares: bool = False) -> socket.socket:
    """Return a socket that listens on ``host`` (an address or a name); 0 is any free port.

    ``shares``: other sockets of the same user may listen on the same port, and the kernel deals
    connections out among them (SO_REUSEPORT of socket(7)). Raises OSError.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def inherited_or_listen(fd: int | None, host: str, port: int) -> socket.socket:
    """Return the supervisor's listening socket ``fd``, or one of our own when there is none.

    Raises OSError, whose text says what to do.
    """
    return listen_or_tell(host, port) if fd is None else socket.socket(fileno=fd)


def listen_or_tell(host: str, port: int, *, shares: bool = False) -> socket.socket:
    """Return what `listen` does; an OSError names the address and says what to do."""
    try:
        return listen(host, port, shares=shares)
    except (OSError, OverflowError) as error:
        raise OSError(cannot_listen(host, port, error)) from error


def cannot_listen(host: str, port: int, error: Exception) -> str:
    """Return why nothing can listen there, and what to do."""
    why = getattr(error, "strerror", None) or str(error)
    return (
        f"cannot listen on {host}:{port}: {why}; choose another with --port N (0 picks a free one)"
    )


def reachable(host: str) -> str:
    """Return the address at which this machine reaches what listens on ``host``."""
    return _ANY.get(host, host)


def origin(host: str, port: int, *, is_tls: bool = False) -> str:
    """Return the URL, without a path, at which this machine reaches what listens there."""
    name, scheme = reachable(host), "https" if is_tls else "http"
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def say(text: str) -> None:
    """Tell whoever started the process something, in one line."""
    print(f"tramontane: {text}", flush=True)


def refuse(text: str, status: int = 1) -> int:
    """Say why the process cannot run and return ``status``, its exit status."""
    print(f"tramontane: error: {text}", file=sys.stderr, flush=True)
    return status
