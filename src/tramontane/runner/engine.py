"""An engine as it looks from outside: does it answer, is it the one, what is its load."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from typing import Final

from tramontane.runner import linux

REPLY_TIMEOUT_S: Final = 2.0  # a healthy engine answers in milliseconds
REPLY_BYTES_MAX: Final = 4 << 20  # vLLM's metrics page has a few hundred kB


def read_series(page: str, name: str) -> int | None:
    """Return the sum of a series over its labels on a Prometheus page; None without it."""
    values = re.findall(rf"^{re.escape(name)}(?:{{.*}})?[ \t]+(\S+)", page, re.MULTILINE)
    try:
        total = sum(map(float, values))
    except ValueError:
        return None
    return int(total) if values and 0 <= total < 1 << 53 else None


def free_port(host: str) -> int:
    """Return a port of ``host`` that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def address_of(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def owns_port(engine_pid: int | None, port: int) -> bool:
    """Tell whether the engine itself listens: the secret is for no other process."""
    sockets: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):  # see proc_net_tcp.rst of the kernel
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for _, local, _, state, _, _, _, _, _, inode, *_ in map(str.split, file):
                if state == "0A" and local.endswith(f":{port:04X}"):
                    sockets.add(f"socket:[{inode}]")
    for pid, fields in linux.processes():
        with contextlib.suppress(OSError):
            files = os.listdir(f"/proc/{pid}/fd") if int(fields[3]) == engine_pid else []
            if sockets & {os.readlink(f"/proc/{pid}/fd/{file}") for file in files}:
                return True
    return not sockets  # it listens where this process cannot look


def get(host: str, port: int, path: str, secret: str = "") -> tuple[int | None, str]:
    """GET ``path``: status, None without an answer, and body. No path: only connect."""
    ask = f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    ends_at = time.monotonic() + REPLY_TIMEOUT_S
    reply = b""
    try:
        with socket.create_connection((host, port), REPLY_TIMEOUT_S) as connection:
            if not path:
                return 0, ""
            connection.sendall(ask.encode())
            while len(reply) < REPLY_BYTES_MAX:
                connection.settimeout(max(0.01, ends_at - time.monotonic()))
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                reply += chunk
        head, _, body = reply.partition(b"\r\n\r\n")
        return int(head.split(None, 2)[1]), body.decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return None, ""
