"""What can go wrong with a cluster, as plain values to hand to a `FakeDriver`.

Calls are counted from 1 over `ensure`, `submit`, `stop` and `forget`; starts from 1 over processes.
Times are milliseconds after the driver was made.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoseReply:
    """The call is carried out, and its answer is lost."""

    call: int


@dataclass(frozen=True, slots=True)
class DropCall:
    """The call is lost on the way: nothing happens, and no answer comes."""

    call: int


@dataclass(frozen=True, slots=True)
class RepeatCall:
    """The call arrives twice."""

    call: int


@dataclass(frozen=True, slots=True)
class DelayCall:
    """No answer comes, and the call is carried out ``by_ms`` later."""

    call: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class FailStart:
    """The process ends before it is ready."""

    start: int
    after_ms: int = 500
    reason: str = "exit code 1\nout of memory"


@dataclass(frozen=True, slots=True)
class SlowStart:
    """The process takes ``by_ms`` longer to become ready."""

    start: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class Crash:
    """The process ends by itself ``after_ms`` after its start."""

    start: int
    after_ms: int
    reason: str = "signal 9"


@dataclass(frozen=True, slots=True)
class FailAttempt:
    """The command of an attempt fails; starts of attempts are counted apart, from 1."""

    start: int
    after_ms: int = 500
    reason: str = "exit code 1"


@dataclass(frozen=True, slots=True)
class Evict:
    """The cluster evicts an attempt."""

    start: int
    after_ms: int = 500


@dataclass(frozen=True, slots=True)
class Walltime:
    """The cluster ends the process ``after_ms`` after its start, and says so from then on."""

    start: int
    after_ms: int
    reason: str = "its time on the cluster was over"


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Somebody drains the node on the cluster itself, for a time."""

    node_name: str
    at_ms: int
    until_ms: int
    reason: str = "new disks"


@dataclass(frozen=True, slots=True)
class LoseNode:
    """The cluster declares the node lost for a time; its processes may live on unseen."""

    node_name: str
    at_ms: int
    until_ms: int
    is_fatal: bool = False  # the processes on it end, and leave no trace


@dataclass(frozen=True, slots=True)
class Silence:
    """The cluster does not answer for a time: views are unreachable, calls are lost."""

    at_ms: int
    until_ms: int
    reason: str = "the connection timed out"


@dataclass(frozen=True, slots=True)
class LateReports:
    """For a time, views show each process in the state that it had ``by_ms`` earlier."""

    at_ms: int
    until_ms: int
    by_ms: int


CallFault = LoseReply | DropCall | RepeatCall | DelayCall
StartFault = FailStart | SlowStart | Crash | FailAttempt | Evict | Walltime
TimedFault = LoseNode | DrainNode | Silence | LateReports
Fault = CallFault | StartFault | TimedFault
