"""Simulated worlds of jobs hold every check; planted bugs are each found."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sim.jobs import run_seed
from tests.sim.world import template
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.jobs.job import Attempt, Job
from tramontane.domain.jobs.snapshot import JobSnapshot, Start
from tramontane.domain.observation import Reachable, Unreachable
from tramontane.drivers.fake import FakeDriver
from tramontane.reconcilers.jobs.reconciler import JobReconciler

SEEDS = 60
CHUNK = 30


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with template() as place:
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_worlds_of_jobs_hold_every_check(first: int, folder: Path) -> None:
    lines: list[str] = []
    for seed in range(first, first + CHUNK):
        run_seed(seed, folder, tell=lines.append)
    told = "\n".join(lines)
    for fate in ("crashes before", "crashes after", "comes between", "user cancels"):
        assert fate in told, f"no world of this chunk saw {fate!r}"
    for fault in (
        "LoseReply",
        "DropCall",
        "RepeatCall",
        "DelayCall",
        "LoseNode",
        "Silence",
        "Evict",
    ):
        assert fault in told, f"no world of this chunk saw {fault}"


@pytest.mark.slow
def test_a_world_of_jobs_holds_every_check(folder: Path) -> None:
    run_seed(1_000, folder)


class ActsBeforeCommit(JobReconciler):
    """Starts an attempt, then records it."""

    def _new_attempt(self, start: Start, job: Job, now_ms: int) -> Attempt:
        attempt = super()._new_attempt(start, job, now_ms)
        driver = next(iter(self._drivers.values()))
        launch: Any = None  # the look before the start finds it, whatever it would start
        driver.submit(attempt.id, launch)
        return attempt


class TakesUnknownForGone(JobReconciler):
    """Reads a cluster's silence as the news that nothing runs there."""

    def _look(self) -> JobSnapshot | None:
        seen = super()._look()
        if seen is None:
            return None
        clusters = tuple(
            replace(state, view=Reachable((), ())) if isinstance(state.view, Unreachable) else state
            for state in seen.clusters
        )
        return replace(seen, clusters=clusters)


class TrustsItself(JobReconciler):
    """Asks no accounting: what it saw is what is charged."""

    def _look(self) -> JobSnapshot | None:
        seen = super()._look()
        if seen is None:
            return None
        return replace(seen, records=(), now_ms=seen.now_ms + 90_000_000)


class SubmitsAgain(FakeDriver):
    """Starts an attempt at each call, however often the id was started before."""

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        self._call(node_name, lambda: self.attempts.spawn(attempt_id, launch, node_name))


BUGS: dict[str, tuple[dict[str, Any], str]] = {
    "acts before commit": ({"reconciler": ActsBeforeCommit}, "intent first"),
    "unknown is gone": ({"reconciler": TakesUnknownForGone}, "unknown is not gone"),
    "trusts itself": ({"reconciler": TrustsItself}, "counted exactly"),
    "submits again": ({"driver": SubmitsAgain}, "started once"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_by_its_check(name: str, folder: Path) -> None:
    options, check = BUGS[name]
    caught: dict[str, int] = {}
    for seed in range(SEEDS):
        try:
            run_seed(seed, folder, **options)
        except AssertionError as error:
            found = str(error).split(": ")[1]
            caught.setdefault(found, seed)
            if found == check:
                return
    pytest.fail(f"{name} was not caught by {check!r}; caught: {caught}")
