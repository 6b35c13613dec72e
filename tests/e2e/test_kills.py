"""``kill -9`` of every process in turn: engines are found again or ended, and it is said."""

import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.system import Process, System, is_alive
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BACK_MAX_S = 20.0  # from the kill until a request is answered again


def wait_until_back(system: System) -> None:
    until(system.serves, "an answer after the kill", BACK_MAX_S)


def wait_until_said(system: System, *words: str) -> None:
    """Wait for a line of the output that holds all of ``words``."""

    def look() -> bool:
        return any(all(word in line for word in words) for line in system.said().splitlines())

    try:
        until(look, f"a line with {words}", BACK_MAX_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{system.said()}\n{system.logs()}") from None


def engine_of(system: System) -> Process:
    """Return the one engine, once there is exactly one."""
    until(lambda: len(system.processes("engine")) == 1, "one engine", BACK_MAX_S)
    return system.only("engine")


def test_the_gateway_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    gateway = own_system.only("gateway")
    gateway.kill()
    wait_until_back(own_system)
    assert own_system.only("gateway").pid != gateway.pid
    assert engine_of(own_system) == engine
    wait_until_said(own_system, "gateway", str(gateway.pid), "SIGKILL")


def test_the_control_plane_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    control = own_system.only("control")
    control.kill()
    assert own_system.serves()  # the data plane outlives the control plane
    until(lambda: own_system.processes("control"), "the next control plane")
    wait_until_said(own_system, "control plane", str(control.pid), "SIGKILL")
    wait_until_said(own_system, "found", str(engine.replica_id))
    assert own_system.deployment()["ready_replicas"] == 1
    assert engine_of(own_system) == engine
    wait_until_back(own_system)


def test_the_engine_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    engine.kill()
    until(lambda: not is_alive(engine.pid), "the end of the engine")
    wait_until_back(own_system)
    assert engine_of(own_system).replica_id != engine.replica_id
    failed = own_system.cloud("GET", f"/replicas/{engine.replica_id}")
    assert failed["status"] == "failed"
    assert "SIGKILL" in failed["reason"] or "signal 9" in failed["reason"]


def test_the_runner_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    own_system.only("runner").kill()
    until(lambda: not is_alive(engine.pid), "the end of the engine without a runner")
    wait_until_back(own_system)
    assert engine_of(own_system).replica_id != engine.replica_id


def test_the_supervisor_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    own_system.kill_up()
    until(
        lambda: {p.role for p in own_system.processes()} == {"runner", "engine"},
        "the end of control plane and gateway without their supervisor",
    )
    own_system.start()
    wait_until_said(own_system, "found", str(engine.replica_id))
    assert engine_of(own_system) == engine
    assert own_system.serves()


def test_everything_killed(own_system: System) -> None:
    engine = engine_of(own_system)
    own_system.kill_up()
    for process in own_system.processes():
        if is_alive(process.pid):
            process.kill()
    own_system.start()
    assert engine_of(own_system).replica_id != engine.replica_id
    assert own_system.serves()


def test_an_engine_that_nobody_remembers_is_ended(own_system: System) -> None:
    """Restore an older database: the engine that runs is an orphan to it."""
    status, _ = own_system.stop()
    assert status == 0
    database = own_system.home / "tramontane.sqlite"
    backup = database.with_suffix(".backup")
    shutil.copy2(database, backup)
    own_system.start()
    orphan = engine_of(own_system)
    own_system.kill_up()
    until(lambda: not own_system.processes("control"), "the end of the control plane")
    assert is_alive(orphan.pid)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copy2(backup, database)
    own_system.start()
    until(lambda: not is_alive(orphan.pid), "the end of the orphan")
    wait_until_said(own_system, "orphan", str(orphan.replica_id))
    wait_until_back(own_system)
    assert engine_of(own_system).replica_id != orphan.replica_id


def test_a_stop_while_a_request_runs_lets_it_finish(stopped_system: System) -> None:
    stopped_system.start()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stopped_system.chat, max_tokens=400, ignore_eos=True)
        time.sleep(0.3)
        status, _ = stopped_system.stop(signal.SIGTERM)
        reply = asked.result(timeout=10)
    assert status == 0
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 400
    assert stopped_system.processes() == []
