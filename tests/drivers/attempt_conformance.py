"""What every driver must do with attempts at jobs: one suite, run on each of them.

Used as `conformance.DriverConformance` is. Time passes only when the suite says so.
"""

import contextlib
from typing import Final, Protocol

import pytest

from tests.drivers.conformance import LOOKS_MAX, together
from tests.support.attempts import How, new_attempt_id
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState, JobLaunch
from tramontane.domain.observation import Reachable
from tramontane.drivers.base import Driver, DriverUnavailableError

GOING: Final = {AttemptState.QUEUED, AttemptState.RUNNING}


class AttemptCluster(Protocol):
    """A driver and what the suite must know of the world behind it."""

    driver: Driver

    def new_driver(self) -> Driver:
        """Return a driver of the same cluster, as a restarted control plane would make it."""
        ...

    def job(self, how: How) -> JobLaunch:
        """Return something to run.

        It ``runs`` for a second at least, ``succeeds`` soon, ``fails`` after it wrote ``out of
        luck``, or ``outlasts`` its time limit of a second.
        """
        ...

    def attempt_starts(self, attempt_id: str) -> int:
        """Return how often something was really started under this id."""
        ...

    def pass_time(self) -> None:
        """Let a little time pass."""
        ...


class AttemptConformance:
    """The suite."""

    def test_what_is_submitted_succeeds(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "succeeds")
        seen = _until(cluster, attempt_id, AttemptState.SUCCEEDED)
        assert seen.exit_code == 0
        assert seen.external_id
        assert len(seen.node_names) == 1
        assert seen.started_at_ms is not None
        assert seen.ended_at_ms is not None
        assert 0 < seen.started_at_ms <= seen.ended_at_ms
        assert _list(cluster)[attempt_id] == seen  # it stays so

    def test_an_attempt_is_no_replica(self, cluster: AttemptCluster) -> None:
        _submit(cluster, "runs")
        view = cluster.driver.view()
        assert isinstance(view, Reachable)
        assert view.observations == ()

    def test_an_attempt_is_started_once(self, cluster: AttemptCluster) -> None:
        attempt_id, launch = new_attempt_id(), cluster.job("succeeds")
        for _ in range(3):
            cluster.driver.submit(attempt_id, launch, _node(cluster))
        over = _until(cluster, attempt_id, AttemptState.SUCCEEDED)
        cluster.driver.submit(attempt_id, launch, _node(cluster))
        cluster.pass_time()
        assert _list(cluster) == {attempt_id: over}
        assert cluster.attempt_starts(attempt_id) == 1

    def test_an_attempt_is_started_once_by_many_at_a_time(self, cluster: AttemptCluster) -> None:
        attempt_id, launch = new_attempt_id(), cluster.job("succeeds")
        name = _node(cluster)
        together(lambda: cluster.driver.submit(attempt_id, launch, name))
        _until(cluster, attempt_id, AttemptState.SUCCEEDED)
        assert cluster.attempt_starts(attempt_id) == 1

    def test_a_failed_attempt_leaves_its_reason(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "fails")
        seen = _until(cluster, attempt_id, AttemptState.FAILED)
        assert seen.exit_code
        assert "out of luck" in (seen.reason or "")
        assert "out of luck" in "\n".join(cluster.driver.logs(attempt_id, 10))

    def test_it_ends_at_its_time_limit(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "outlasts")
        seen = _until(cluster, attempt_id, AttemptState.TIMED_OUT)
        assert seen.reason
        assert seen.ended_at_ms is not None

    @pytest.mark.parametrize("drain", [True, False])
    def test_a_stop_may_be_repeated(self, cluster: AttemptCluster, *, drain: bool) -> None:
        attempt_id = _submit(cluster, "runs")
        _until(cluster, attempt_id, AttemptState.RUNNING)
        for _ in range(3):
            cluster.driver.stop(attempt_id, drain=drain)
        over = _until(cluster, attempt_id, AttemptState.CANCELLED)
        assert over.reason
        cluster.driver.stop(attempt_id, drain=drain)
        assert _list(cluster)[attempt_id] == over

    def test_what_was_just_submitted_can_be_stopped(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "runs")
        cluster.driver.stop(attempt_id, drain=False)
        _until(cluster, attempt_id, AttemptState.CANCELLED)

    def test_unknown_attempts_do_no_harm(self, cluster: AttemptCluster) -> None:
        unknown = new_attempt_id()
        for drain in (True, False):
            cluster.driver.stop(unknown, drain=drain)
        cluster.driver.forget(unknown)
        assert cluster.driver.logs(unknown, 10) == []
        assert cluster.driver.read_log(unknown, 0, 0, 100) == b""
        assert cluster.driver.account([unknown]) == {}
        assert _list(cluster) == {}

    def test_on_an_unknown_node_no_attempt_is_started(self, cluster: AttemptCluster) -> None:
        if cluster.driver.queues:
            return  # it chooses the node itself
        attempt_id = new_attempt_id()
        with contextlib.suppress(DriverUnavailableError):
            cluster.driver.submit(attempt_id, cluster.job("runs"), "no-such-node")
        cluster.pass_time()
        assert _list(cluster) == {}
        assert cluster.attempt_starts(attempt_id) == 0

    def test_a_new_driver_finds_attempts_again(self, cluster: AttemptCluster) -> None:
        ended = _submit(cluster, "fails")
        over = _until(cluster, ended, AttemptState.FAILED)
        launch, living = cluster.job("runs"), new_attempt_id()
        cluster.driver.submit(living, launch, _node(cluster))
        seen = _until(cluster, living, AttemptState.RUNNING)
        cluster.driver = cluster.new_driver()
        assert _list(cluster)[ended] == over
        assert _list(cluster)[living].started_at_ms == seen.started_at_ms
        cluster.driver.submit(living, launch, _node(cluster))
        for _ in range(LOOKS_MAX):  # a cluster tells of a start before the command says its word
            if cluster.attempt_starts(living):
                break
            cluster.pass_time()
        assert cluster.attempt_starts(living) == 1
        cluster.driver.stop(living, drain=False)
        _until(cluster, living, AttemptState.CANCELLED)

    def test_its_output_is_read_by_lines_and_by_bytes(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "fails")
        _until(cluster, attempt_id, AttemptState.FAILED)
        lines = cluster.driver.logs(attempt_id, 100)
        assert lines
        assert cluster.driver.logs(attempt_id, 1) == lines[-1:]
        assert cluster.driver.logs(attempt_id, 0) == []
        whole = cluster.driver.read_log(attempt_id, 0, 0, 1 << 20)
        assert b"out of luck" in whole
        assert cluster.driver.read_log(attempt_id, 0, 2, 3) == whole[2:5]
        assert cluster.driver.read_log(attempt_id, 0, len(whole), 100) == b""
        assert cluster.driver.read_log(attempt_id, 7, 0, 100) == b""

    def test_what_is_over_is_accounted(self, cluster: AttemptCluster) -> None:
        living, ended = _submit(cluster, "runs"), _submit(cluster, "succeeds")
        over = _until(cluster, ended, AttemptState.SUCCEEDED)
        _until_accounted(cluster, ended)
        records = cluster.driver.account([living, ended])
        assert living not in records or _list(cluster)[living].state.is_over
        record = records[ended]
        assert (record.attempt_id, record.state) == (ended, AttemptState.SUCCEEDED)
        assert record.started_at_ms == over.started_at_ms
        assert record.ended_at_ms == over.ended_at_ms
        assert record.devices == over.devices
        assert record.external_id == over.external_id

    def test_only_attempts_that_ended_are_forgotten(self, cluster: AttemptCluster) -> None:
        attempt_id = _submit(cluster, "runs")
        _until(cluster, attempt_id, AttemptState.RUNNING)
        cluster.driver.forget(attempt_id)
        assert _list(cluster)[attempt_id].state is AttemptState.RUNNING
        cluster.driver.stop(attempt_id, drain=False)
        _until(cluster, attempt_id, AttemptState.CANCELLED)
        for _ in range(2):
            cluster.driver.forget(attempt_id)
        assert _list(cluster) == {}
        assert cluster.driver.logs(attempt_id, 10) == []

    def test_what_an_ended_job_left_is_removed(self, cluster: AttemptCluster) -> None:
        kept = _submit(cluster, "fails")
        launch, attempt_id = cluster.job("fails"), new_attempt_id()
        cluster.driver.submit(attempt_id, launch, _node(cluster))
        for id_ in (kept, attempt_id):
            _until(cluster, id_, AttemptState.FAILED)
        cluster.driver = cluster.new_driver()  # as after a restart, between two pieces
        for _ in range(LOOKS_MAX):
            with contextlib.suppress(DriverUnavailableError):
                if cluster.driver.remove_job(launch.job_id, [attempt_id], launch.tenancy):
                    break
            cluster.pass_time()
        assert cluster.driver.remove_job(launch.job_id, [attempt_id], launch.tenancy)
        assert list(_list(cluster)) == [kept]
        assert cluster.driver.logs(attempt_id, 10) == []
        assert "out of luck" in "\n".join(cluster.driver.logs(kept, 10))

    def test_a_job_of_which_something_lives_keeps_everything(self, cluster: AttemptCluster) -> None:
        launch, attempt_id = cluster.job("runs"), new_attempt_id()
        cluster.driver.submit(attempt_id, launch, _node(cluster))
        _until(cluster, attempt_id, AttemptState.RUNNING)
        with pytest.raises(DriverUnavailableError):
            cluster.driver.remove_job(launch.job_id, [attempt_id], launch.tenancy)
        assert _list(cluster)[attempt_id].state is AttemptState.RUNNING
        cluster.driver.stop(attempt_id, drain=False)
        _until(cluster, attempt_id, AttemptState.CANCELLED)

    def test_of_a_job_that_nobody_knows_nothing_is_left(self, cluster: AttemptCluster) -> None:
        launch = cluster.job("runs")
        assert cluster.driver.remove_job(launch.job_id, [new_attempt_id()], launch.tenancy)
        assert cluster.driver.remove_job(launch.job_id, [], launch.tenancy)

    def test_nothing_new_is_to_start_on_a_drained_node(self, cluster: AttemptCluster) -> None:
        name = _node(cluster) or _nodes(cluster)[0]
        for _ in range(2):
            cluster.driver.set_drained(name, "for a new cooling pipe")
        cluster.driver = cluster.new_driver()
        (node,) = (node for node in _reachable(cluster).nodes if node.name == name)
        assert node.is_drained
        assert "cooling pipe" in (node.reason or "")
        for _ in range(2):
            cluster.driver.set_drained(name, None)
        for _ in range(LOOKS_MAX):  # what is kept of a view may be a moment old
            (node,) = (node for node in _reachable(cluster).nodes if node.name == name)
            if not node.is_drained:
                break
            cluster.pass_time()
        assert not node.is_drained
        assert node.reason is None


def _reachable(cluster: AttemptCluster) -> Reachable:
    view = cluster.driver.view()
    assert isinstance(view, Reachable)
    return view


def _nodes(cluster: AttemptCluster) -> list[str]:
    return [node.name for node in _reachable(cluster).nodes]


def _node(cluster: AttemptCluster) -> str | None:
    return None if cluster.driver.queues else _nodes(cluster)[0]


def _list(cluster: AttemptCluster) -> dict[str, AttemptObservation]:
    attempts = _reachable(cluster).attempts
    found = {seen.attempt_id: seen for seen in attempts}
    assert len(found) == len(attempts)
    return found


def _submit(cluster: AttemptCluster, how: How) -> str:
    attempt_id = new_attempt_id()
    cluster.driver.submit(attempt_id, cluster.job(how), _node(cluster))
    assert attempt_id in _list(cluster)
    return attempt_id


def _until(cluster: AttemptCluster, attempt_id: str, state: AttemptState) -> AttemptObservation:
    for _ in range(LOOKS_MAX):
        seen = _list(cluster)[attempt_id]  # whatever happens, it stays listed
        if seen.state is state:
            return seen
        assert seen.state in GOING, f"{seen.state}: {seen.reason}"
        cluster.pass_time()
    pytest.fail(f"{attempt_id} was never {state}")


def _until_accounted(cluster: AttemptCluster, attempt_id: str) -> None:
    for _ in range(LOOKS_MAX):
        if attempt_id in cluster.driver.account([attempt_id]):
            return
        cluster.pass_time()
    pytest.fail(f"{attempt_id} was never accounted")
