"""What only a real Slurm cluster can show: places, outages, lost replies, what was forgotten."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.support.raw_http import HostileProxy
from tests.support.runners import get, new_id
from tests.support.slurm_driver import SMALL, SlurmWorld, open_world
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain.jobs.attempt import AttemptState, Topology
from tramontane.domain.observation import NodeObservation, RunState, Unreachable
from tramontane.domain.resources import Resources
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm import driver, orders
from tramontane.drivers.slurm.driver import SlurmDriver
from tramontane.runtime.clock import SystemIds

pytestmark = pytest.mark.slow

ALL_DEVICES = Resources(1000, 64 << 20, 4)
SUBMISSIONS = 1_000
WORKERS = 8


@pytest.fixture
def world(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm) as world:
        yield world


def new_attempt() -> str:
    return SystemIds().new("att")


def node_of(world: SlurmWorld, name: str) -> NodeObservation:
    return next(node for node in world.seen().nodes if node.name == name)


@contextmanager
def nothing_starts(slurm: SlurmCluster) -> Iterator[None]:
    """Keep every job in the queue for a while."""
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        yield
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


def test_a_thousand_submissions_through_lost_replies_are_a_thousand_jobs(
    slurm: SlurmCluster,
) -> None:
    proxy = HostileProxy(slurm.rest_url, seed=1, harm=0.25)
    with proxy, nothing_starts(slurm), open_world(slurm, url=proxy.url) as world:
        drivers = [world.new_driver(poll_interval_s=1.0, settle_s=0.5)]
        wanted = [new_attempt() for _ in range(SUBMISSIONS)]
        left = list(wanted)
        lock = threading.Lock()
        launch = world.job("true")

        def work() -> None:
            while True:
                with lock:
                    if not left:
                        return
                    if len(left) == SUBMISSIONS // 2:  # the control plane starts anew
                        drivers.append(world.new_driver(poll_interval_s=1.0, settle_s=0.5))
                    id_ = left.pop()
                try:
                    drivers[-1].submit(id_, launch)
                except DriverUnavailableError:
                    with lock:
                        left.insert(0, id_)  # later

        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        proxy.harm = 0
        found = world.jobs()
        assert sorted(found) == sorted(wanted)
        assert [id_ for id_, numbers in found.items() if len(numbers) != 1] == []
        assert proxy.done["drop"] > 20
        assert proxy.done["double"] > 20
        seen = world.seen(world.new_driver())
        assert {attempt.attempt_id for attempt in seen.attempts} == set(wanted)
        assert {attempt.state for attempt in seen.attempts} == {AttemptState.QUEUED}
        assert {attempt.reason for attempt in seen.attempts} == {"the partition is down"}
        slurm.run("scancel", "--user=tmt-a", "--state=PENDING")


def test_without_its_controller_nothing_is_known_and_nothing_is_lost(
    slurm: SlurmCluster, world: SlurmWorld
) -> None:
    world.settings = replace(world.settings, timeout_s=2)
    world.driver = world.new_driver()
    replica_id, late = new_id(), new_id()
    world.driver.ensure(replica_id, "r1n1", world.tiny())
    until(lambda: ready(world, replica_id), "the engine")
    before = world.replica(replica_id)
    until_saved(slurm)
    slurm.kill("slurmctld")
    try:
        view = until(lambda: unreachable(world.driver), "the outage")
        assert "did not answer" in view.reason
        with pytest.raises(DriverUnavailableError):
            world.driver.ensure(late, "r1n1", world.tiny())
        with pytest.raises(DriverUnavailableError):
            world.driver.stop(replica_id)
        began = time.monotonic()
        assert isinstance(world.driver.view(), Unreachable)  # told at once, without asking again
        assert time.monotonic() - began < 0.5
    finally:
        slurm.restart("slurmctld")
    until(lambda: not unreachable(world.driver), "the controller", 60)
    assert world.replica(replica_id) == before
    assert world.starts(replica_id) == 1
    until(lambda: ensured(world, late), "the second engine", 60)
    until(lambda: ready(world, late), "the second engine")
    assert world.starts(late) == 1
    assert len(world.jobs()[late]) == 1


def until_saved(slurm: SlurmCluster) -> None:
    """Have the controller save its state, which it does when something happens."""
    began, state = time.time(), slurm.folder / "state" / "job_state"

    def look() -> bool:
        words = ("--parsable", "--uid=tmt-a", "--hold", "--output=/dev/null", "--wrap=true")
        slurm.run("scancel", slurm.run("sbatch", *words).strip())
        return state.exists() and state.stat().st_mtime > began

    until(look, "saved state", 60)


def test_a_job_that_slurm_starts_a_second_time_does_not_run_twice(
    slurm: SlurmCluster, world: SlurmWorld
) -> None:
    """A controller that is killed before it saved its state kills what runs and starts it anew."""
    attempt_id = new_attempt()
    with nothing_starts(slurm):
        world.driver.submit(attempt_id, world.job("echo up; sleep 60"))
        until_saved(slurm)
    until(lambda: world.driver.read_log(attempt_id, 0, 0, 10) == b"up\n", "the script")
    slurm.kill("slurmctld")
    slurm.restart("slurmctld")
    ended = world.until_over(attempt_id, 60)
    # Which of both is chance: slurmd may refuse the second start itself, with status 1.
    assert ended.state in {AttemptState.NODE_FAILED, AttemptState.FAILED}
    assert world.driver.read_log(attempt_id, 0, 0, 10) == b"up\n"
    slurm.until_nodes_respond()


def ready(world: SlurmWorld, replica_id: str) -> bool:
    seen = world.replica(replica_id)
    return seen is not None and seen.run_state is RunState.READY


def unreachable(driver: SlurmDriver) -> Unreachable | None:
    view = driver.view()
    return view if isinstance(view, Unreachable) else None


def ensured(world: SlurmWorld, replica_id: str) -> bool:
    try:
        world.driver.ensure(replica_id, "r1n1", world.tiny())
    except DriverUnavailableError:
        return False
    return True


def test_a_key_that_is_not_the_clusters_is_told(slurm: SlurmCluster, world: SlurmWorld) -> None:
    wrong = slurm.folder / "wrong.key"
    wrong.write_bytes(b"w" * 32)
    world.settings = replace(world.settings, jwt_key=wrong)
    view = world.new_driver().view()
    assert isinstance(view, Unreachable)
    assert "is jwt_key the cluster's own" in view.reason
    assert "wwww" not in view.reason


def test_a_slurmrestd_without_a_known_version_is_refused_by_name(
    slurm: SlurmCluster, world: SlurmWorld
) -> None:
    port = int(slurm.rest_url.rpartition(":")[2]) + 200  # of the cluster's own block
    argv = ["slurmrestd", "-f", str(slurm.conf), "-a", "rest_auth/jwt", "-s", "openapi/v0.0.37"]
    old = subprocess.Popen(
        [*argv, f"127.0.0.1:{port}"],
        env=slurm.env() | {"SLURM_JWT": "daemon", "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        user="nobody",
        group="nogroup",
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        world.settings = replace(world.settings, url=f"http://127.0.0.1:{port}")
        driver = world.new_driver()

        def look() -> Unreachable | None:
            view = unreachable(driver)
            return view if view and "cannot connect" not in view.reason else None

        view = until(look, "an answer")
        assert "offers v0.0.37; this driver speaks v0.0.38 to v0.0." in view.reason
    finally:
        old.kill()
        old.wait()


def test_a_gang_waits_for_its_rack(world: SlurmWorld) -> None:
    """One device of each rack is taken: two whole nodes are free, but no rack."""
    blockers = {"r1n1": new_id(), "r2n1": new_id()}
    for node, replica_id in blockers.items():
        launch = replace(world.tiny(), resources=replace(SMALL, devices=1))
        world.driver.ensure(replica_id, node, launch)
    for replica_id in blockers.values():
        until(lambda id_=replica_id: ready(world, id_), "an engine")
    gang, anywhere = new_attempt(), new_attempt()
    script = 'echo "$NODE_RANK $CUDA_VISIBLE_DEVICES"'
    shape = {"nodes": 2, "resources": ALL_DEVICES}
    world.driver.submit(gang, world.job(script, topology=Topology.RACK, **shape))
    until(lambda: world.attempt(gang).reason not in NOT_LOOKED_AT, "Slurm's look at it")
    assert world.attempt(gang).state is AttemptState.QUEUED
    world.driver.submit(anywhere, world.job(script, **shape))
    assert set(world.until_over(anywhere).node_names) == {"r1n2", "r2n2"}
    assert world.attempt(gang).state is AttemptState.QUEUED
    world.driver.stop(blockers["r2n1"], drain=False)
    ended = world.until_over(gang)
    assert (ended.state, ended.node_names, ended.devices) == (
        AttemptState.SUCCEEDED,
        ("r2n1", "r2n2"),
        8,
    )
    for rank in range(2):
        assert world.driver.read_log(gang, rank, 0, 100) == b"%d 0,1,2,3\n" % rank
    wanted = [gang, anywhere, new_attempt()]
    until(lambda: len(world.driver.account(wanted)) == 2, "slurmdbd's word")
    records = world.driver.account(wanted)
    assert {record.devices for record in records.values()} == {8}
    assert records[gang].started_at_ms == ended.started_at_ms
    assert records[gang].ended_at_ms == ended.ended_at_ms


NOT_LOOKED_AT = {"Slurm has not looked at it yet", "it is held back"}


def test_a_submission_that_was_interrupted_before_its_rack_was_asked_for_is_finished(
    world: SlurmWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise DriverUnavailableError("the control plane was killed here")

    gang = new_attempt()
    monkeypatch.setattr(world.driver._scontrol, "require_one_rack", fail)
    with pytest.raises(DriverUnavailableError):
        world.driver.submit(gang, world.job("true", nodes=2, topology=Topology.RACK))
    world.driver = world.new_driver()
    assert world.until_over(gang).state is AttemptState.SUCCEEDED
    assert world.jobs()[gang] == [int(world.attempt(gang).external_id or 0)]


def test_a_replica_on_two_nodes_drains_as_one(world: SlurmWorld) -> None:
    replica_id = new_id()
    launch = world.tiny("--mark", "mark")
    launch = replace(launch, nodes=2, worker_argv=("sleep", "600"), resources=ALL_DEVICES)
    world.driver.ensure(replica_id, "r2n2", launch, peers=["r2n1"])
    until(lambda: ready(world, replica_id), "the engine")
    (number,) = world.jobs()[replica_id]
    shown = world.slurm.run("squeue", "-h", "-j", str(number), "--format=%N %b")
    assert shown.split() == ["r2n[1-2]", "gres:gpu:4"]
    until(lambda: node_of(world, "r2n1").used == Resources(), "the nodes")
    world.driver.stop(replica_id)
    ended = until(lambda: exited(world, replica_id), "its end")
    assert ended == "drained and ended as asked"


def exited(world: SlurmWorld, replica_id: str) -> str | None:
    seen = world.replica(replica_id)
    return seen.reason if seen and seen.run_state is RunState.EXITED else None


def test_a_second_job_of_an_id_does_nothing(world: SlurmWorld) -> None:
    replica_id = new_id()
    world.driver.ensure(replica_id, "r1n1", world.tiny())
    until(lambda: ready(world, replica_id), "the engine")
    before = world.replica(replica_id)
    order, user = orders.replica_order(
        world.driver._office, replica_id, ["r1n2"], world.tiny(), None
    )
    second = world.driver._api.submit(order, user)
    until(lambda: str(second) not in world.live(), "the end of the second")
    with nothing_starts(world.slurm):
        third = world.driver._api.submit(order, user)

        def is_gone() -> bool:
            return bool(world.seen().nodes) and str(third) not in world.live()

        until(is_gone, "the end of what waits behind it")
    shown = world.slurm.run("sacct", "-nXj", str(second), "--format=ExitCode").split()
    assert shown == ["91:0"]
    assert world.replica(replica_id) == before
    assert world.starts(replica_id) == 1
    world.driver.ensure(replica_id, "r1n1", world.tiny())
    assert len(world.jobs()[replica_id]) == 3


def test_what_is_only_hidden_is_not_lost(
    slurm: SlurmCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PrivateData hides the jobs of tenants from an ``admin_user`` without rights."""
    monkeypatch.setattr(driver, "MISSING_S", 0.2)
    monkeypatch.setattr(driver, "RESOLVE_EVERY_S", 0.2)
    with open_world(slurm, admin_user="tmt-b") as world:
        world.driver.submit(attempt_id := new_attempt(), world.job("sleep 60"))

        def told() -> bool:
            assert not world.attempt(attempt_id).state.is_over
            return "AdminLevel=Operator" in caplog.text

        until(told, "the hint")
        assert "user tmt-b does not see" in caplog.text
        (number,) = world.jobs()[attempt_id]
        slurm.run("scancel", str(number))
        assert world.until_over(attempt_id).state is AttemptState.CANCELLED  # its user saw that


def test_what_slurm_forgot_is_found_in_accounting(slurm: SlurmCluster, world: SlurmWorld) -> None:
    attempt_id, unseen = new_attempt(), new_attempt()
    text = slurm.conf.read_text()
    slurm.conf.write_text(re.sub(r"MinJobAge=\d+", "MinJobAge=2", text))
    slurm.run("scontrol", "reconfigure")
    try:
        other = world.new_driver()
        world.driver.submit(attempt_id, world.job("exit 3"))
        other.submit(unseen, world.job("true"))
        assert world.seen().attempts
        until(lambda: not world.jobs(), "Slurm to forget", 60)
        ended = world.until_over(attempt_id)  # it was never seen to end
        assert (ended.state, ended.devices) == (AttemptState.FAILED, 0)
        fresh = world.new_driver()
        assert world.seen(fresh).attempts == ()
        fresh.submit(attempt_id, world.job("exit 3"))
        (found,) = world.seen(fresh).attempts
        assert found.state is AttemptState.FAILED
        assert world.jobs() == {}
        until(lambda: len(fresh.account([attempt_id, unseen])) == 2, "slurmdbd's word")
        records = fresh.account([attempt_id, unseen])
        assert {id_: record.state for id_, record in records.items()} == {
            attempt_id: AttemptState.FAILED,
            unseen: AttemptState.SUCCEEDED,
        }
        ours = (attempt_id, unseen)
        run_dirs = [p for p in world.folder.glob("jobs/*/attempts/*") if p.name in ours]
        assert len(run_dirs) == 2
        for id_ in ours:
            world.new_driver().forget(id_)
        assert not any(path.exists() for path in run_dirs)
    finally:
        slurm.conf.write_text(text)
        slurm.run("scontrol", "reconfigure")


def test_without_slurmdbd_things_start_all_the_same(slurm: SlurmCluster, world: SlurmWorld) -> None:
    attempt_id = new_attempt()
    slurm.kill("slurmdbd")
    try:
        world.driver.submit(attempt_id, world.job("echo hello"))
        ended = world.until_over(attempt_id)
        assert ended.state is AttemptState.SUCCEEDED
        with pytest.raises(DriverUnavailableError):
            world.driver.account([attempt_id])
    finally:
        slurm.restart("slurmdbd")


def test_what_waits_is_cancelled_and_what_runs_is_asked(world: SlurmWorld) -> None:
    waiting, running = new_attempt(), new_attempt()
    with nothing_starts(world.slurm):
        world.driver.submit(waiting, world.job("true"))
        world.driver.stop(waiting)
        seen = world.attempt(waiting)
        assert (seen.state, seen.reason) == (
            AttemptState.CANCELLED,
            "was cancelled before it started",
        )
        until(lambda: not world.live(), "its end")
    script = "trap 'echo asked; exit 4' TERM; echo up; while true; do sleep 0.1; done"
    world.driver.submit(running, world.job(script))
    until(lambda: world.driver.read_log(running, 0, 0, 10) == b"up\n", "the script")
    world.driver.stop(running)
    ended = world.until_over(running)
    assert ended.state is AttemptState.CANCELLED
    assert world.driver.logs(running, 5)[-1] == "asked"
    assert world.attempt(waiting).state is AttemptState.CANCELLED


def test_nodes_are_drained_for_everybody_and_come_back(world: SlurmWorld) -> None:
    world.driver.set_drained("r2n2", "new\ndisks")
    try:
        node = until(lambda: drained(world, "r2n2"), "the drain")
        assert node.reason == "drain: new disks"
        assert not node.is_lost
        assert "r2n2" in world.slurm.run("sinfo", "-h", "--states=drain", "--format=%N")
        world.driver.submit(attempt_id := SystemIds().new("att"), world.job("true", nodes=4))
        away = "nodes that it needs are down, drained or reserved"
        until(lambda: world.attempt(attempt_id).reason == away, "why it waits")
    finally:
        world.driver.set_drained("r2n2", None)
    until(lambda: drained(world, "r2n2") is None, "its return")
    assert world.until_over(attempt_id).state is AttemptState.SUCCEEDED
    with pytest.raises(ValueError, match="has no node nowhere"):
        world.driver.set_drained("nowhere", "x")


def drained(world: SlurmWorld, name: str) -> NodeObservation | None:
    node = node_of(world, name)
    return node if node.is_drained else None


def test_what_others_hold_is_no_room(world: SlurmWorld) -> None:
    replica_id = new_id()
    launch = replace(world.tiny(), resources=replace(SMALL, devices=1))
    world.driver.ensure(replica_id, "r1n1", launch)
    words = ("--nodelist=r1n1", "--gpus=2", "--mem=100", "--cpus-per-task=3", "--output=/dev/null")
    job = world.slurm.run("sbatch", "--parsable", "--uid=tmt-a", *words, "--wrap=sleep 60").strip()
    try:
        used = Resources(3000, 100 << 20, 2)
        until(lambda: node_of(world, "r1n1").used == used, "the other's share")
        until(lambda: ready(world, replica_id), "the engine")
        assert node_of(world, "r1n1").used == used
    finally:
        world.slurm.run("scancel", job)
    until(lambda: node_of(world, "r1n1").used == Resources(), "the other's end")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"account": "nobodys"}, "not in Slurm's accounting"),
        ({"partition": "nowhere"}, "set partition in the cluster's settings"),
        ({"qos": {"standard": "none"}}, "may not use this QOS"),
        ({"default_user": None, "users": {"bank": "tmt-b"}}, "set users"),
    ],
)
def test_settings_that_slurm_refuses_are_told_with_what_to_do(
    world: SlurmWorld, options: dict[str, object], words: str
) -> None:
    world.settings = replace(world.settings, **options)
    driver = world.new_driver()
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            driver.ensure(new_id(), "r1n1", world.tiny(tenancy=world.job("x").tenancy))
    assert world.jobs() == {}


def test_logs_follow_no_link_and_show_no_secret(world: SlurmWorld) -> None:
    attempt_id, launch = new_attempt(), world.job('echo "it is $MINE"')
    launch = replace(launch, env=(("MINE", launch.secret),))
    world.driver.submit(attempt_id, launch)
    world.until_over(attempt_id)
    assert world.driver.logs(attempt_id, 10) == ["it is ***"]
    log = world.folder / "jobs" / launch.job_id / "attempts" / attempt_id / "log.0"
    log.unlink()
    log.symlink_to("/etc/shadow")
    assert world.driver.read_log(attempt_id, 0, 0, 1000) == b""
    assert "root" not in "".join(world.driver.logs(attempt_id, 100))
    work = world.folder / "jobs" / launch.job_id / "work"
    assert work.is_dir()
    world.driver.forget(attempt_id)
    assert not log.parent.exists()
    assert work.is_dir()  # later attempts go on from it
    world.driver.submit(attempt_id, launch)  # forgotten is not unknown
    assert len(world.jobs()[attempt_id]) == 1
    assert world.seen().attempts == ()


def test_an_engine_has_only_its_own_environment(
    world: SlurmWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the operator's")
    replica_id = new_id()
    world.driver.ensure(replica_id, "r1n1", world.tiny())
    until(lambda: ready(world, replica_id), "the engine")
    seen = world.replica(replica_id)
    assert seen is not None
    told = get(seen.address or "", "/environ")
    assert "OPENAI_API_KEY" not in told
    assert "CUDA_VISIBLE_DEVICES=\n" in told + "\n"  # it asked for none
    assert world.receiver.secrets[replica_id].startswith("Bearer ")
