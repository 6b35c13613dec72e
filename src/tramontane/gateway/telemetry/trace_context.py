"""W3C Trace Context: the headers traceparent and tracestate of a client, checked and passed on.

Source: W3C Recommendation "Trace Context", level 1, sections 3.2 and 3.3. What is not valid is
dropped, as section 3.4 asks; nothing is invented here.
"""

import re
from collections.abc import Iterable
from typing import Final

_PARENT: Final = re.compile(
    rb"([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_MEMBER: Final = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MEMBERS_MAX: Final = 32
_STATE_BYTES_MAX: Final = 2_048  # vendors must pass on 512; more than this is no trace state
SAMPLED: Final = 1


class TraceContext:
    """A valid trace context. ``trace_id`` and ``span_id`` are hex; ``state`` may be empty."""

    __slots__ = ("flags", "parent", "span_id", "state", "trace_id")

    def __init__(
        self,
        trace_id: bytes,
        span_id: bytes,
        flags: int,
        state: bytes = b"",
        parent: "TraceContext | None" = None,
    ) -> None:
        self.parent = parent
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.state = state

    @property
    def is_sampled(self) -> bool:
        """Tell whether who began the trace records it."""
        return bool(self.flags & SAMPLED)

    def header_lines(self) -> bytes:
        """Return the header lines that hand the context on."""
        parent = b"traceparent: 00-%b-%b-%02x\r\n" % (self.trace_id, self.span_id, self.flags)
        return parent + b"tracestate: %b\r\n" % self.state if self.state else parent


def read(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Return the context that both headers give (names in lower case), None without a valid one."""
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        (parents if name == b"traceparent" else states).append(value)
    if len(parents) != 1:
        return None
    found = _PARENT.fullmatch(parents[0])
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    # Of a later version only what version 00 knows is passed on, as version 00 (section 3.2.4).
    known = int(flags, 16) if version == b"00" else int(flags, 16) & SAMPLED
    return TraceContext(trace_id, span_id, known, _read_state(states))


def _read_state(states: list[bytes]) -> bytes:
    members = [item.strip(b" \t") for value in states for item in value.split(b",")]
    members = [item for item in members if item]
    state = b",".join(members)
    if len(members) > _MEMBERS_MAX or len(state) > _STATE_BYTES_MAX:
        return b""
    keys = {item.partition(b"=")[0] for item in members}
    if len(keys) != len(members) or not all(_MEMBER.fullmatch(item) for item in members):
        return b""
    return state
