"""What operators set and tenants wish, as a real Slurm cluster carries it out."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.runners import get, new_id
from tests.support.slurm_driver import ACCOUNT, SMALL, USER, SlurmWorld, open_world
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain.jobs.attempt import AttemptState, Topology
from tramontane.domain.launch import PriorityClass
from tramontane.domain.observation import Observation, RunState
from tramontane.domain.resources import Resources
from tramontane.runtime.clock import SystemIds

pytestmark = pytest.mark.slow

WHOLE = Resources(1_000, 64 << 20, 4)
HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned #",
    '"\n#SBATCH --nodes=99\ntouch pwned\n',
    "TRAMONTANE_END\ntouch pwned",
    '\\"}],{"name":"x',
    "-n --help %n %j",
    "\x01\x7f ünïcode 🏔 ${IFS}",
)
# What is not ours, as Slurm prints it.
LISTS = ("account", "associations", "qos", "user")
CLASSES = {"reserved": "gold", "standard": "silver", "spot": "scrap"}
# Meets the others at the head's address, as torchrun's and Megatron's store does.
MEET = """
import os, socket, time
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["NODE_RANK"] == "0":
    with socket.create_server(place) as server:
        print(server.accept()[0].recv(99).decode())
else:
    for _ in range(200):
        try:
            with socket.create_connection(place) as head:
                head.sendall(b"rank 1 of " + os.environ["WORLD_SIZE"].encode())
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
"""


@pytest.fixture(scope="module", autouse=True)
def own(slurm: SlurmCluster) -> None:
    """An operator's own partition, account and classes."""
    slurm.add_user(USER, ACCOUNT)
    slurm.run("scontrol", "create", "PartitionName=night", "Nodes=r2n[1-2]", "MaxTime=60")
    for name in CLASSES.values():
        slurm.run("sacctmgr", "-i", "add", "qos", name)
    slurm.run("sacctmgr", "-i", "modify", "qos", "gold", "set", "preempt+=scrap", "priority=9")
    slurm.run("sacctmgr", "-i", "modify", "qos", "scrap", "set", "preemptmode=cancel")
    who = ("user", f"name={USER}", f"account={ACCOUNT}")
    slurm.run("sacctmgr", "-i", "modify", *who, "set", f"qos+={','.join(CLASSES.values())}")


@pytest.fixture
def world(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm, qos=CLASSES) as world:
        yield world


def new_attempt() -> str:
    return SystemIds().new("att")


def ready(world: SlurmWorld, replica_id: str) -> Observation | None:
    seen = world.replica(replica_id)
    return seen if seen is not None and seen.run_state is RunState.READY else None


def racks_of(world: SlurmWorld, names: tuple[str, ...]) -> list[str]:
    found = {name: rack for rack, nodes in world.slurm.racks.items() for name in nodes}
    return sorted(found[name] for name in names)


def test_a_job_that_is_spread_lies_over_both_racks(world: SlurmWorld) -> None:
    for shape in ({"nodes": 2}, {"nodes": 3}):
        attempt_id = new_attempt()
        world.driver.submit(
            attempt_id, world.job("true", topology=Topology.SPREAD, resources=WHOLE, **shape)
        )
        ended = world.until_over(attempt_id)
        assert ended.state is AttemptState.SUCCEEDED
        assert set(racks_of(world, ended.node_names)) == {"rack1", "rack2"}
        assert len(ended.node_names) == shape["nodes"]


def test_nodes_of_a_gang_meet_at_the_address_that_they_are_told(world: SlurmWorld) -> None:
    attempt_id = new_attempt()
    launch = world.job("", nodes=2, argv=(world.settings.python, "-c", MEET))
    world.driver.submit(attempt_id, launch)
    assert world.until_over(attempt_id).state is AttemptState.SUCCEEDED
    assert world.driver.read_log(attempt_id, 0, 0, 99) == b"rank 1 of 2\n"


def test_no_value_of_a_tenant_is_read_as_a_command(world: SlurmWorld) -> None:
    attempt_id = new_attempt()
    env = tuple((f"HOSTILE_{number}", text) for number, text in enumerate(HOSTILE))
    say = (
        "import os, sys",
        "print(sys.argv[1:] == [os.environ[f'HOSTILE_{n}'] for n in range(8)])",
    )
    argv = (world.settings.python, "-c", "; ".join(say), *HOSTILE)
    launch = world.job("", argv=argv, env=env, name=HOSTILE[0])
    world.driver.submit(attempt_id, launch)
    assert world.until_over(attempt_id).state is AttemptState.SUCCEEDED
    assert world.driver.read_log(attempt_id, 0, 0, 99) == b"True\n"
    assert not [path for path in world.slurm.folder.rglob("pwned") if path.exists()]


def test_the_queue_tells_when_it_expects_to_start_something(world: SlurmWorld) -> None:
    whole = {"nodes": 4, "resources": WHOLE}
    running, waiting = new_attempt(), new_attempt()
    world.driver.submit(running, world.job("sleep 600", time_limit_s=600, **whole))
    until(lambda: world.attempt(running).state is AttemptState.RUNNING, "the first")
    world.driver.submit(waiting, world.job("true", **whole))
    begun_ms = world.attempt(running).started_at_ms or 0

    def estimate_ms() -> int | None:
        seen = world.attempt(waiting)
        return seen.starts_at_ms if "no free nodes" in (seen.reason or "") else None

    expected_ms = until(estimate_ms, "Slurm's reason and its estimate")
    # Its limit, and the time to save: Slurm counts in minutes.
    assert 600_000 <= expected_ms - begun_ms <= 720_000


def test_an_evicted_replica_finishes_what_it_answers(world: SlurmWorld) -> None:
    spot, urgent = new_id(), new_attempt()
    launch = replace(world.tiny(), resources=WHOLE, priority_class=PriorityClass.SPOT)
    world.driver.ensure(spot, "r1n1", launch)
    address = until(lambda: ready(world, spot), "the engine").address or ""
    answers: list[str] = []
    call = threading.Thread(target=lambda: answers.append(get(address, "/sleep?s=2", 20)))
    call.start()
    until(lambda: "requests_running 1" in said(address), "the request")
    gang = {"nodes": 4, "resources": WHOLE, "priority_class": PriorityClass.RESERVED}
    world.driver.submit(urgent, world.job("true", **gang))
    until(lambda: is_draining(world, spot), "the drain")
    call.join(20)
    assert answers == ["slept"]
    assert world.until_over(urgent).state is AttemptState.SUCCEEDED
    ended = until(lambda: exited(world, spot), "its end")
    assert ended == "drained and ended as asked"
    assert world.starts(spot) == 1


def said(address: str) -> str:
    return get(address, "/metrics").replace('{model="x y"}', "")


def is_draining(world: SlurmWorld, replica_id: str) -> bool:
    seen = world.replica(replica_id)
    return seen is not None and seen.run_state in {RunState.DRAINING, RunState.EXITED}


def exited(world: SlurmWorld, replica_id: str) -> str | None:
    seen = world.replica(replica_id)
    return seen.reason if seen and seen.run_state is RunState.EXITED else None


def test_modules_and_a_container_come_before_what_runs(slurm: SlurmCluster) -> None:
    """`env` stands for a container's command: it is put before each command just so."""
    setup = ('module() { export LOADED="$LOADED $2"; }', "module load cuda/12")
    container = ("/usr/bin/env", "INSIDE=the image's")
    with open_world(slurm, setup=setup, container=container) as world:
        replica_id, attempt_id = new_id(), new_attempt()
        world.driver.ensure(replica_id, "r1n1", world.tiny())
        world.driver.submit(attempt_id, world.job('echo "$INSIDE$LOADED"'))
        assert world.until_over(attempt_id).state is AttemptState.SUCCEEDED
        assert world.driver.read_log(attempt_id, 0, 0, 99) == b"the image's cuda/12\n"
        address = until(lambda: ready(world, replica_id), "the engine").address or ""
        told = get(address, "/environ").splitlines()
        assert {"INSIDE=the image's", "LOADED= cuda/12"} <= set(told)


def test_an_operators_partition_account_and_classes_are_used_as_they_are(
    slurm: SlurmCluster,
) -> None:
    def of_the_operator() -> str:
        lists = [slurm.run("sacctmgr", "-nP", "list", noun) for noun in LISTS]
        return "".join([*lists, slurm.run("scontrol", "show", "partition")])

    before = of_the_operator()
    with open_world(slurm, partition="night", qos=CLASSES) as world:
        assert [node.name for node in world.seen().nodes] == ["r2n1", "r2n2"]
        attempt_id, replica_id = new_attempt(), new_id()
        wish = {"resources": SMALL, "priority_class": PriorityClass.SPOT}
        world.driver.submit(attempt_id, world.job("sleep 60", **wish))
        world.driver.ensure(replica_id, "r2n1", world.tiny())
        until(lambda: ready(world, replica_id), "the engine")
        shown = slurm.run("squeue", "-h", "--format=%j %P %a %q").splitlines()
        assert f"{attempt_id} night {ACCOUNT} scrap" in shown
        assert f"{replica_id} night {ACCOUNT} silver" in shown
        late = new_attempt()
        with pytest.raises(ValueError, match="longer than the 60 min that the partition allows"):
            world.driver.submit(late, world.job("true", time_limit_s=3_601))
    assert of_the_operator() == before
