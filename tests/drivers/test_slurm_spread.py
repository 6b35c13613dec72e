"""A job that is to be spread lies over as many racks as can be, on nodes that it can get soon."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.drivers.test_slurm_script import attempt, order_of
from tramontane.domain.jobs.attempt import Topology
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmNode, SlurmPartition
from tramontane.drivers.slurm.spread import left_out

MAIN = SlurmPartition("main", is_default=True, max_time_min=None, max_nodes=None)
WHOLE = Resources(1_000, 1 << 20, 4)


def node(name: str, *states: str, used_gpus: int = 0, gpus: int = 4) -> SlurmNode:
    told = frozenset(states or ("IDLE",))
    kinds, main = (("x", gpus),), frozenset({"main"})
    return SlurmNode(name, told, "", main, 8, 4_000, kinds, 0, 0, used_gpus)


def gang(nodes: int) -> JobOrder:
    return order_of(attempt([], nodes=nodes, topology=Topology.SPREAD, resources=WHOLE))


def kept(order: JobOrder, nodes: list[SlurmNode], **replicas: Resources) -> set[str]:
    racks = {it.name: it.name[0] for it in nodes}
    out = left_out(order, nodes, MAIN, racks, replicas)
    return {it.name for it in nodes} - set(out)


SIX = [node(f"{rack}{number}") for rack in "abc" for number in (1, 2)]


def test_one_node_of_each_rack_remains_and_slurm_chooses() -> None:
    assert kept(gang(2), SIX) == {"a1", "b1", "c1"}
    assert kept(gang(3), SIX) == {"a1", "b1", "c1"}


def test_beyond_the_racks_each_gets_its_part() -> None:
    assert kept(gang(4), SIX) == {"a1", "b1", "c1", "a2"}
    assert kept(gang(6), SIX) == {it.name for it in SIX}


def test_what_starts_soonest_remains() -> None:
    nodes = [node("a1", "IDLE", "DRAIN"), node("a2", used_gpus=4), node("a3", used_gpus=4)]
    nodes += [node("b1", used_gpus=1), node("b2"), node("c1", "DOWN"), node("c2")]
    assert kept(gang(2), nodes, a2=WHOLE) == {"a3", "b2", "c2"}


def test_what_cannot_hold_it_is_not_counted() -> None:
    elsewhere = replace(node("c1"), partitions=frozenset({"other"}))
    small = [node("a1"), node("b1", gpus=2), node("b2"), elsewhere]
    assert left_out(gang(2), small, MAIN, {it.name: it.name[0] for it in small}, {}) == ()
    assert left_out(gang(2), SIX, MAIN, {}, {}) == ()


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
def test_it_can_always_run_and_lies_over_as_many_racks_as_can_be(
    sizes: list[int], data: st.DataObject
) -> None:
    nodes = [
        node("abcdef"[rack] + str(number), used_gpus=data.draw(st.integers(0, 4)))
        for rack, size in enumerate(sizes)
        for number in range(size)
    ]
    wanted = data.draw(st.integers(2, len(nodes)) if len(nodes) > 2 else st.just(2))
    names = kept(gang(wanted), nodes)
    assert len(names) >= wanted
    assert len({name[0] for name in names}) == len(sizes)
    if wanted >= len(sizes):
        assert len(names) == wanted
    else:
        assert len(names) == len(sizes), "any of them are of as many racks"
