"""What a runner says of itself over HTTP. All is bounded: processes of tenants can send it."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tramontane.wire.cloud_types import TIME_MS_MAX, Reply, Strict

BODY_BYTES_MAX: Final = 64 << 10  # a report with the longest reason takes 25 kB
REASON_CHARS_MAX: Final = 8_192  # the runner sends half of that
# An address and a port, as numbers: a name could lead anywhere by the time it is used.
ADDRESS: Final = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-f:.]{2,45}\]):[0-9]{1,5}$"
# Tab and newline are all the control characters that a reason may hold.
TEXT: Final = r"^[^\x00-\x08\x0b-\x1f\x7f]*$"
NODE_NAME: Final = r"^[!-~]+$"
COUNT_MAX: Final = 1 << 31

_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class RunnerReportBody(Strict):
    """The report of one runner; it replaces what that one said before."""

    run_state: Literal["starting", "ready", "draining", "exited"]
    at_ms: Annotated[int, Field(ge=0, le=TIME_MS_MAX)]
    address: Annotated[str, Field(max_length=64, pattern=ADDRESS)] | None = None
    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX, pattern=TEXT)] | None = None
    requests_running: _Count | None = None
    requests_waiting: _Count | None = None
    exit_code: Annotated[int, Field(ge=-COUNT_MAX, le=COUNT_MAX)] | None = None
    outcome: Literal["succeeded", "failed", "cancelled", "timed_out"] | None = None
    node_name: Annotated[str, Field(min_length=1, max_length=253, pattern=NODE_NAME)] | None = None


class RunnerReply(Reply):
    """Whether what the runner supervises is to go on."""

    wanted: bool
