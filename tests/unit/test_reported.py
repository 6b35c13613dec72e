"""What runners say, laid over what their cluster says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState
from tramontane.domain.observation import Observation, Reachable, RunState, Unreachable
from tramontane.domain.planning.reported import with_reports
from tramontane.domain.report import RunnerReport

REP, ATT = "rep_aaaaaaaaaaaaaaaaaaaa", "att_aaaaaaaaaaaaaaaaaaaa"
LIFE = list(RunState)


def replica(run_state: RunState, **more: object) -> Observation:
    return replace(Observation(REP, "r1n1", run_state), **more)


def report(run_state: RunState, **more: object) -> RunnerReport:
    is_serving = run_state in {RunState.READY, RunState.DRAINING}
    said = RunnerReport(REP, run_state, 5, address="10.0.0.1:8000" if is_serving else None)
    return replace(said, **more)


def shown(seen: Observation, said: RunnerReport) -> Observation:
    view = with_reports(Reachable((), (seen,)), {said.id: said})
    assert isinstance(view, Reachable)
    (observation,) = view.observations
    return observation


def test_a_running_replica_serves_once_its_runner_says_so() -> None:
    starting = replica(RunState.STARTING, reason="it waits for resources", ends_at_ms=99)
    assert shown(starting, report(RunState.STARTING)) == starting
    ready = shown(starting, report(RunState.READY, requests_running=3, requests_waiting=1))
    assert ready == replica(
        RunState.READY,
        address="10.0.0.1:8000",
        requests_running=3,
        requests_waiting=1,
        ends_at_ms=99,
    )


def test_its_end_is_told_in_the_runners_words() -> None:
    said = report(RunState.EXITED, reason="engine exited with status 7:\nout of memory")
    for state in LIFE:
        ended = shown(replica(state, reason="FAILED", ends_at_ms=99), said)
        assert ended == replica(
            RunState.EXITED, reason="engine exited with status 7:\nout of memory", address=None
        )


def test_the_cluster_has_the_last_word_on_the_end() -> None:
    lost = replica(RunState.EXITED, reason="its node was lost")
    ended = shown(lost, report(RunState.READY, requests_running=2))
    assert ended == lost
    assert shown(lost, report(RunState.DRAINING)).address is None


def test_what_was_asked_to_drain_does_not_serve_again() -> None:
    draining = replica(RunState.DRAINING)
    seen = shown(draining, report(RunState.READY))
    assert (seen.run_state, seen.address) == (RunState.DRAINING, "10.0.0.1:8000")


def test_what_its_cluster_suspended_is_told_and_does_not_serve() -> None:
    suspended = replica(RunState.DRAINING, reason="is suspended")
    for said in (report(RunState.STARTING), report(RunState.READY), report(RunState.DRAINING)):
        seen = shown(suspended, said)
        assert (seen.run_state, seen.reason) == (RunState.DRAINING, "is suspended")


@given(st.sampled_from(LIFE), st.sampled_from(LIFE))
def test_a_life_goes_forward_only(seen: RunState, said: RunState) -> None:
    both = shown(replica(seen), report(said))
    assert LIFE.index(both.run_state) == max(LIFE.index(seen), LIFE.index(said))
    is_serving = both.run_state in {RunState.READY, RunState.DRAINING}
    assert is_serving or both.address is None


def attempt(state: AttemptState, **more: object) -> AttemptObservation:
    return replace(AttemptObservation(ATT, state, started_at_ms=1, devices=4), **more)


def shown_attempt(seen: AttemptObservation, **said: object) -> AttemptObservation:
    told = replace(RunnerReport(ATT, RunState.EXITED, 5), **said)
    view = with_reports(Reachable((), (), (seen,)), {ATT: told})
    assert isinstance(view, Reachable)
    (observation,) = view.attempts
    return observation


@pytest.mark.parametrize("state", [AttemptState.QUEUED, AttemptState.RUNNING])
def test_the_end_of_its_first_node_is_not_the_end_of_an_attempt(state: AttemptState) -> None:
    seen = attempt(state, reason="Resources")
    assert shown_attempt(seen, exit_code=0, outcome=AttemptState.SUCCEEDED) == seen


def test_a_failure_gets_its_words_and_its_status() -> None:
    seen = attempt(AttemptState.FAILED, reason="NonZeroExitCode", exit_code=1, ended_at_ms=9)
    told = shown_attempt(seen, exit_code=-9, outcome=AttemptState.FAILED, reason="no memory")
    assert told == replace(seen, exit_code=-9, reason="no memory")
    assert shown_attempt(seen) == seen


@pytest.mark.parametrize("outcome", [AttemptState.TIMED_OUT, AttemptState.CANCELLED])
def test_the_runner_knows_why_it_failed(outcome: AttemptState) -> None:
    seen = attempt(AttemptState.FAILED, reason="NonZeroExitCode")
    told = shown_attempt(seen, outcome=outcome, reason="its time limit of 5 s is over")
    assert (told.state, told.reason) == (outcome, "its time limit of 5 s is over")


@pytest.mark.parametrize(
    "state",
    [
        AttemptState.PREEMPTED,
        AttemptState.NODE_FAILED,
        AttemptState.SUCCEEDED,
        AttemptState.CANCELLED,
        AttemptState.TIMED_OUT,
    ],
)
@given(said=st.sampled_from([None, *AttemptState]))
def test_no_report_changes_what_the_cluster_knows(
    state: AttemptState, said: AttemptState | None
) -> None:
    seen = attempt(state, reason="as Slurm says", ended_at_ms=9)
    told = shown_attempt(seen, outcome=said, reason="ended as asked")
    assert told.state is state
    assert told.reason == ("ended as asked" if said is state else "as Slurm says")


def test_silence_stays_silence_and_strangers_are_not_added() -> None:
    silent = Unreachable("no answer")
    assert with_reports(silent, {REP: report(RunState.READY)}) is silent
    empty = Reachable((), ())
    assert with_reports(empty, {REP: report(RunState.READY)}) == empty
    seen = Reachable((), (replica(RunState.STARTING),))
    assert with_reports(seen, {}) is seen
