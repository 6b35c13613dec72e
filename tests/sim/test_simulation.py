"""Two hundred worlds that go wrong hold every check; planted bugs are each found."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.mutations import MUTATIONS
from tests.sim.world import SimulationError, run_seed, template

SEEDS = 200
CHUNK = 25


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with template() as place:
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_worlds_hold_every_check(first: int, folder: Path) -> None:
    lines: list[str] = []
    for seed in range(first, first + CHUNK):
        run_seed(seed, folder, tell=lines.append)
    told = "\n".join(lines)
    # Each chunk must really have gone through what it is meant to survive.
    for fate in ("crashes before", "crashes after", "comes between", "found rep_", "orphan ended"):
        assert fate in told, f"no world of this chunk saw {fate!r}"
    for fate in ("scale from", "ends autoscaling"):
        assert fate in told, f"no user of this chunk {fate!r}"
    faults = ("LoseReply", "DropCall", "RepeatCall", "DelayCall", "LoseNode", "Silence")
    for fault in (*faults, "DrainNode", "Walltime"):
        assert fault in told, f"no world of this chunk saw {fault}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught_by_its_check(name: str, folder: Path) -> None:
    mutation = MUTATIONS[name]
    caught: dict[str, int] = {}
    for seed in range(SEEDS):
        try:
            run_seed(seed, folder, parts=mutation.parts)
        except SimulationError as error:
            caught.setdefault(error.check, seed)
        if mutation.check in caught:
            return
    pytest.fail(f"{name} was not caught by {mutation.check!r}; caught: {caught}")


def test_a_world_holds_every_check(folder: Path) -> None:
    lines: list[str] = []
    run_seed(1_000, folder, tell=lines.append)
    assert "the world is at rest" in lines[-1]


@pytest.mark.slow
def test_a_seed_replays_line_by_line(folder: Path) -> None:
    first: list[str] = []
    second: list[str] = []
    run_seed(4, folder, tell=first.append)
    run_seed(4, folder, tell=second.append)
    assert len(first) > 20
    assert first == second
