"""What is being asked of one deployment, as plain counters that requests keep up as they pass."""

from collections.abc import Sequence

from tramontane.gateway.upstream.replica import Replica


class Traffic:
    """The counters of one deployment; they live on from one route table to the next.

    ``requests`` counts picks, ``tokens`` those generated, ``queued`` who waits for a replica now.
    What `routing.demand` remembers of its last look: ``seen_requests``, ``seen_tokens``,
    ``busy_s`` (when there was traffic last, in seconds of the loop) and ``is_told`` (the control
    plane believes that there is some).
    """

    __slots__ = (
        "busy_s",
        "deployment_id",
        "is_told",
        "queued",
        "replicas",
        "requests",
        "seen_requests",
        "seen_tokens",
        "tokens",
    )

    def __init__(self, deployment_id: str) -> None:
        self.deployment_id = deployment_id
        self.replicas: Sequence[Replica] = ()
        self.requests = 0
        self.tokens = 0
        self.queued = 0
        self.seen_requests = 0
        self.seen_tokens = 0
        self.busy_s = 0.0
        self.is_told = False

    @property
    def in_flight(self) -> int:
        """Return how many requests are at the replicas now."""
        return sum(replica.inflight for replica in self.replicas)
