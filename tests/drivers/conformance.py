"""What every driver must do: one suite, run on each of them.

A test module makes a class of it and gives it a fixture ``cluster``. Time passes only when the
suite says so (`Cluster.pass_time`), so a driver of simulated time is as good as a real one.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Final, Protocol

import pytest

from tests.support.runners import new_id
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import NodeObservation, Observation, Reachable, RunState
from tramontane.drivers.base import Driver, DriverUnavailableError

LOOKS_MAX: Final = 3_000
TOGETHER: Final = 8


class Cluster(Protocol):
    """A driver and what the suite must know of the world behind it."""

    driver: Driver

    def new_driver(self) -> Driver:
        """Return a driver of the same cluster, as a restarted control plane would make it."""
        ...

    def launch(self, *, fails: bool = False) -> LaunchSpec:
        """Return something to start; one that fails says ``out of luck`` and ends."""
        ...

    def starts(self, replica_id: str) -> int:
        """Return how often a process was really started under this id."""
        ...

    def pass_time(self) -> None:
        """Let a little time pass."""
        ...


class DriverConformance:
    """The suite."""

    def test_a_view_shows_nodes_with_room(self, cluster: Cluster) -> None:
        assert isinstance(cluster.driver.view(), Reachable)
        node = _node(cluster)
        assert node.capacity.cpu_millicores >= 1000
        assert node.capacity.memory_bytes > 0
        assert node.capacity.devices == len(node.devices)
        assert _list(cluster) == {}

    def test_what_is_started_becomes_ready(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        seen = _until(cluster, replica_id, RunState.READY)
        assert seen.node_name == _node(cluster).name
        assert seen.address is not None
        host, _, port = seen.address.rpartition(":")
        assert host
        assert int(port) > 0
        assert (seen.requests_running, seen.requests_waiting) == (0, 0)
        assert seen.reason is None

    def test_an_id_is_started_once(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        for _ in range(3):
            cluster.driver.ensure(replica_id, _node(cluster).name, cluster.launch())
        _until(cluster, replica_id, RunState.READY)
        cluster.driver.ensure(replica_id, _node(cluster).name, cluster.launch())
        assert cluster.starts(replica_id) == 1
        assert list(_list(cluster)) == [replica_id]

    def test_an_id_is_started_once_by_many_at_a_time(self, cluster: Cluster) -> None:
        replica_id, name, launch = new_id(), _node(cluster).name, cluster.launch()
        together(lambda: cluster.driver.ensure(replica_id, name, launch))
        _until(cluster, replica_id, RunState.READY)
        assert cluster.starts(replica_id) == 1

    def test_an_id_that_ended_is_not_started_again(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        _until(cluster, replica_id, RunState.READY)
        cluster.driver.stop(replica_id, drain=False)
        ended = _until(cluster, replica_id, RunState.EXITED)
        cluster.driver.ensure(replica_id, _node(cluster).name, cluster.launch())
        cluster.pass_time()
        assert _list(cluster)[replica_id] == ended
        assert cluster.starts(replica_id) == 1

    @pytest.mark.parametrize("drain", [True, False])
    def test_stop_may_be_repeated(self, cluster: Cluster, *, drain: bool) -> None:
        replica_id = _start(cluster)
        _until(cluster, replica_id, RunState.READY)
        for _ in range(3):
            cluster.driver.stop(replica_id, drain=drain)
        ended = _until(cluster, replica_id, RunState.EXITED)
        assert ended.reason
        assert ended.address is None
        cluster.driver.stop(replica_id, drain=drain)
        assert _list(cluster)[replica_id] == ended

    def test_stop_by_many_at_a_time_drains_all_the_same(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        _until(cluster, replica_id, RunState.READY)
        together(lambda: cluster.driver.stop(replica_id))
        ended = _until(cluster, replica_id, RunState.EXITED)
        assert "drained" in (ended.reason or "")

    def test_what_starts_can_be_stopped(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        cluster.driver.stop(replica_id, drain=False)
        _until(cluster, replica_id, RunState.EXITED)

    def test_unknown_ids_do_no_harm(self, cluster: Cluster) -> None:
        other = _start(cluster)
        unknown = new_id()
        cluster.driver.stop(unknown)
        cluster.driver.stop(unknown, drain=False)
        cluster.driver.forget(unknown)
        assert cluster.driver.logs(unknown, 10) == []
        assert list(_list(cluster)) == [other]

    def test_on_an_unknown_node_nothing_is_started(self, cluster: Cluster) -> None:
        replica_id = new_id()
        with contextlib.suppress(DriverUnavailableError):
            cluster.driver.ensure(replica_id, "no-such-node", cluster.launch())
        cluster.pass_time()
        assert _list(cluster) == {}
        assert cluster.starts(replica_id) == 0

    def test_a_new_driver_finds_everything_again(self, cluster: Cluster) -> None:
        living, ended = _start(cluster), _start(cluster)
        _until(cluster, living, RunState.READY)
        _until(cluster, ended, RunState.READY)
        cluster.driver.stop(ended, drain=False)
        _until(cluster, ended, RunState.EXITED)
        before, cluster.driver = cluster.driver, cluster.new_driver()
        found = _list(cluster)
        assert {id_: seen.run_state for id_, seen in found.items()} == {
            living: RunState.READY,
            ended: RunState.EXITED,
        }
        # A cluster and its runner tell an end one after the other: both drivers hear both.
        for _ in range(LOOKS_MAX):
            if _list(cluster) == _list(cluster, before):
                break
            cluster.pass_time()
        assert _list(cluster) == _list(cluster, before)
        cluster.driver.ensure(living, _node(cluster).name, cluster.launch())
        assert cluster.starts(living) == 1
        cluster.driver.stop(living)
        _until(cluster, living, RunState.EXITED)

    def test_a_failure_leaves_its_reason(self, cluster: Cluster) -> None:
        replica_id = new_id()
        cluster.driver.ensure(replica_id, _node(cluster).name, cluster.launch(fails=True))
        ended = _until(cluster, replica_id, RunState.EXITED)
        assert "out of luck" in (ended.reason or "")
        assert "out of luck" in "\n".join(cluster.driver.logs(replica_id, 10))

    def test_logs_are_the_last_lines(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        _until(cluster, replica_id, RunState.READY)
        lines = cluster.driver.logs(replica_id, 100)
        assert len(lines) >= 2
        assert cluster.driver.logs(replica_id, 1) == lines[-1:]
        assert cluster.driver.logs(replica_id, 0) == []

    def test_only_what_ended_is_forgotten(self, cluster: Cluster) -> None:
        replica_id = _start(cluster)
        _until(cluster, replica_id, RunState.READY)
        cluster.driver.forget(replica_id)
        assert _list(cluster)[replica_id].run_state is RunState.READY
        cluster.driver.stop(replica_id, drain=False)
        _until(cluster, replica_id, RunState.EXITED)
        cluster.driver.forget(replica_id)
        cluster.driver.forget(replica_id)
        assert _list(cluster) == {}
        assert cluster.driver.logs(replica_id, 10) == []


def _node(cluster: Cluster) -> NodeObservation:
    view = cluster.driver.view()
    assert isinstance(view, Reachable)
    return view.nodes[0]


def _list(cluster: Cluster, driver: Driver | None = None) -> dict[str, Observation]:
    view = (driver or cluster.driver).view()
    assert isinstance(view, Reachable)
    found = {observation.replica_id: observation for observation in view.observations}
    assert len(found) == len(view.observations)
    return found


def _start(cluster: Cluster) -> str:
    replica_id = new_id()
    cluster.driver.ensure(replica_id, _node(cluster).name, cluster.launch())
    assert list(_list(cluster)).count(replica_id) == 1
    return replica_id


def _until(cluster: Cluster, replica_id: str, run_state: RunState) -> Observation:
    for _ in range(LOOKS_MAX):
        seen = _list(cluster)[replica_id]  # whatever happens, it stays listed
        if seen.run_state is run_state:
            return seen
        assert seen.run_state is not RunState.EXITED, seen.reason
        cluster.pass_time()
    pytest.fail(f"{replica_id} was never {run_state}")


def together(call: Callable[[], None]) -> None:
    """Make the same call from several threads at once."""
    gate = threading.Barrier(TOGETHER)
    failures: list[Exception] = []

    def run() -> None:
        gate.wait()
        try:
            call()
        except Exception as error:  # noqa: BLE001 (told below)
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
