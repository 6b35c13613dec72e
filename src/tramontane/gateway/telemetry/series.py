"""What is counted of one model in one project: plain integers, one call per ended request.

The call costs well under a microsecond: no text is built, a histogram is one binary search in
fixed bounds, and the time between tokens comes from the totals of a stream, not from its chunks.
"""

from bisect import bisect_left
from typing import Final

from tramontane.domain.usage import Outcome
from tramontane.gateway.telemetry import names

REFUSED: Final = "refused"
_DURATION: Final = names.DURATION.bounds
_FIRST_TOKEN: Final = names.FIRST_TOKEN.bounds
_INTER_TOKEN: Final = names.INTER_TOKEN.bounds
_QUEUE: Final = names.QUEUE_WAIT.bounds


class RouteSeries:
    """The counts of one pair of project and model. Durations are in seconds."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "duration",
        "duration_s",
        "ejections",
        "first_token",
        "first_token_s",
        "in_flight",
        "inter_token",
        "inter_token_s",
        "limit_refusals",
        "model",
        "project_id",
        "prompt_tokens",
        "queue",
        "queue_s",
        "requests",
        "retries",
        "upstream_errors",
        "waiting",
    )

    def __init__(self, project_id: str, model: str) -> None:
        self.project_id = project_id
        self.model = model
        self.in_flight = 0
        self.waiting = 0
        self.retries = 0
        self.ejections = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.requests: dict[tuple[str, str, int], int] = {}  # endpoint, outcome, status // 100
        self.limit_refusals: dict[tuple[str, str], int] = {}  # meter, scope
        self.upstream_errors: dict[str, int] = {}
        # One count more than bounds: what is above the last one.
        self.duration = [0] * (len(_DURATION) + 1)
        self.first_token = [0] * (len(_FIRST_TOKEN) + 1)
        self.inter_token = [0] * (len(_INTER_TOKEN) + 1)
        self.queue = [0] * (len(_QUEUE) + 1)
        self.duration_s = self.first_token_s = self.inter_token_s = self.queue_s = 0.0

    def ended(  # noqa: PLR0917 - called for every request: keywords would cost
        self,
        endpoint: str,
        outcome: Outcome,
        status: int,
        duration_s: float,
        first_byte_s: float | None,
        prompt: int,
        completion: int,
        cached: int,
        is_stream: bool,  # noqa: FBT001 - as above
    ) -> None:
        """Count an admitted request that has ended. ``first_byte_s`` is None without a reply."""
        self.in_flight -= 1
        key = (endpoint, outcome, status // 100)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.cached_tokens += cached
        self.duration[bisect_left(_DURATION, duration_s)] += 1
        self.duration_s += duration_s
        if is_stream and first_byte_s is not None:
            self.first_token[bisect_left(_FIRST_TOKEN, first_byte_s)] += 1
            self.first_token_s += first_byte_s
            if completion > 1:
                gap_s = (duration_s - first_byte_s) / (completion - 1)
                self.inter_token[bisect_left(_INTER_TOKEN, gap_s)] += 1
                self.inter_token_s += gap_s

    def unreached(self, endpoint: str, outcome: str, status: int) -> None:
        """Count a request for this model that no engine got: refused, or cut by its client."""
        key = (endpoint, outcome, status // 100)
        self.requests[key] = self.requests.get(key, 0) + 1

    def waited(self, wait_s: float) -> None:
        """Count a request that had to wait before it went on, or gave up."""
        self.queue[bisect_left(_QUEUE, wait_s)] += 1
        self.queue_s += wait_s

    def limit_refused(self, meter: str, scope: str) -> None:
        """Count a refusal by a limit."""
        key = (meter, scope)
        self.limit_refusals[key] = self.limit_refusals.get(key, 0) + 1

    def upstream_failed(self, kind: str) -> None:
        """Count a fault of an engine; the kinds stand in the metric's meaning."""
        self.upstream_errors[kind] = self.upstream_errors.get(kind, 0) + 1
