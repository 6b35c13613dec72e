"""What routing costs each request, in microseconds on this machine: the best of several runs.

python -m bench.micro_routing
"""

import json
import sys
import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import orjson

from tramontane.domain.routing import Route
from tramontane.gateway.routes import ActiveRoute
from tramontane.gateway.routing.choice import pick
from tramontane.gateway.routing.outliers import note_answer
from tramontane.gateway.routing.prefix import prefix_of
from tramontane.gateway.routing.traffic import Traffic
from tramontane.gateway.upstream.replica import Replica

ROUTE = Route("prj_x", "m", "dep_x", "m", "llamacpp", 2_048, 0, ())
RUNS, CALLS = 7, 20_000


def main() -> int:
    rows: list[tuple[str, float]] = []
    for kilobytes in (1, 100):
        prompt = prompt_of(kilobytes)
        rows.append((f"prefix of a body of {kilobytes} kB", cost(partial(prefix_of, prompt, 7))))
    for count in (1, 2, 4, 16, 64):
        active = active_of(count)
        prefix = 123_456_789 if count > 1 else None
        by_prefix = cost(partial(pick, active, prefix, 1.0, (), 1_024))
        rows.append((f"pick by prefix, {count} replicas", by_prefix))
        by_load = cost(partial(pick, active, None, 1.0, (), 1_024))
        rows.append((f"pick by load, {count} replicas", by_load))
    hot = active_of(4)
    hot.make_ring().owner(5).inflight = 99
    rows.append(
        ("pick when its replica is full, 4 replicas", cost(partial(pick, hot, 5, 1.0, (), 1_024)))
    )
    canary = ActiveRoute(replace(ROUTE, canary_percent=30), (), Traffic("dep_x"))
    rows.append(("which version", cost(canary.takes_canary)))
    replica = hot.replicas[0]
    rows.append(("note an answer", cost(partial(note_answer, replica, is_probe=False))))
    print("| step | µs |\n|---|---|")
    for name, found in rows:
        print(f"| {name} | {found:.2f} |")
    return 0


def cost(call: Callable[[], object]) -> float:
    """Return the microseconds of one call, less those of calling nothing."""
    empty = min(timeit.repeat(lambda: None, number=CALLS, repeat=RUNS))
    return (min(timeit.repeat(call, number=CALLS, repeat=RUNS)) - empty) / CALLS * 1e6


def prompt_of(kilobytes: int) -> object:
    """Return the decoded messages of a body of about that size."""
    system = "You answer about winds and nothing else. " * (kilobytes * 12)
    body = {
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": "Where does the tramontane blow? " * 14},
        ]
    }
    return orjson.loads(json.dumps(body))["messages"]


def active_of(count: int) -> ActiveRoute:
    """Return a route with replicas that all have some load."""
    replicas = tuple(Replica(f"rep_{number}", f"h:{number + 1}", "s") for number in range(count))
    for replica in replicas:
        replica.inflight = 3
    return ActiveRoute(ROUTE, replicas, Traffic("dep_x"))


if __name__ == "__main__":
    sys.exit(main())
