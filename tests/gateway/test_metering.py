"""In-flight table, spool and recovery on real files: nothing lost, nothing twice."""

import os
import time
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.spending.pricing import Prices
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent
from tramontane.gateway.limits import RECORD_BYTES_MAX, Limits
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.metering.events import Started, UsageLine, encode, ended, event_id_of
from tramontane.gateway.metering.inflight import InflightTable, lock_dead, read_leftovers
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.metering.spool import Segment, Spool, owner_of, read_lines, whole_bytes
from tramontane.runtime.clock import ManualClock

PRICES = Prices(prompt_micro=2_000_000, completion_micro=6_000_000, cached_micro=1_000_000)
LIMITS = Limits(inflight_max=8, segment_bytes=4096, spool_step_bytes=4096)


def started(number: int = 0, **changes: object) -> Started:
    values = {name: f"{name[:3]}_{'a' * 18}{number:02}" for name in Started.__struct_fields__}
    values |= {"request_id": f"req_{'a' * 18}{number:02}", "model": "demo", "is_stream": True}
    values |= {"endpoint": "chat.completions", "started_at_ms": 1_000, "prices": PRICES}
    return Started(**{**values, **changes})


def line(number: int) -> UsageLine:
    return ended(
        started(number),
        gateway="gw",
        holder="gw-1",
        outcome=Outcome.COMPLETED,
        status=200,
        tokens=(1, 2, 0),
        counted=(0, 9, 0),
        duration_ms=5,
        first_byte_ms=1,
    )


def make_meter(folder: Path, owner: str = "gw-1", limits: Limits = LIMITS) -> Meter:
    meter = Meter(folder, owner=owner, gateway="gw", clock=ManualClock(2_000), limits=limits)
    meter.open()
    return meter


def die(meter: Meter) -> None:
    """Let go of the locks as a killed process does, and of nothing else."""
    table = meter._table
    assert table is not None
    table.chunks.release()
    table._view.release()
    table._map.close()
    os.close(table._fd)
    if meter._spool._fd is not None:
        os.close(meter._spool._fd)
    meter._syncer.shutdown()


def events_in(folder: Path) -> list[dict]:
    found = []
    for path in sorted((folder / "spool").glob("*.jsonl")):
        lines, _ = read_lines(Segment(path, whole_bytes(path)), 0, 10_000)
        found += [msgspec.json.decode(item) for item in lines]
    return found


def test_a_usage_line_has_the_fields_of_a_usage_event():
    assert UsageLine.__struct_fields__ == tuple(field.name for field in fields(UsageEvent))
    decoded = msgspec.json.decode(encode(line(1)), type=UsageEvent)
    assert decoded.token_source is TokenSource.ENGINE
    assert decoded.id == event_id_of(decoded.request_id)


def test_the_longest_record_fits_the_reserved_room():
    prices = Prices(10**12, 10**12, 10**12, 10**12)
    longest = started(
        model="m" * 127, endpoint="chat.completions", started_at_ms=2**53, prices=prices
    )
    assert len(encode(longest)) <= 504
    event = ended(
        longest,
        gateway="g" * 63,
        holder="g" * 63 + "-4194304-12345678",
        outcome=Outcome.COMPLETED,
        status=200,
        tokens=(10**9, 10**9, 10**9),
        counted=(0, 0, 0),
        duration_ms=10**9,
        first_byte_ms=10**9,
    )
    assert len(encode(event)) < RECORD_BYTES_MAX


@pytest.mark.parametrize(
    ("outcome", "tokens", "counted", "expected"),
    [
        (Outcome.COMPLETED, (100, 10, 0), 0, 200_000 + 60_000),
        (Outcome.COMPLETED, (100, 10, 40), 0, 120_000 + 40_000 + 60_000),
        (Outcome.COMPLETED, (10, 0, 40), 0, 10_000),  # no more was cached than there was
        (Outcome.CUT, None, 7, 42_000),
        (Outcome.FAILED, (0, 0, 0), 0, 0),
        (Outcome.FAILED, None, 5, 0),
    ],
)
def test_what_a_request_costs(outcome, tokens, counted, expected):
    event = ended(
        started(),
        gateway="gw",
        holder="gw-1",
        outcome=outcome,
        status=200,
        tokens=tokens,
        counted=(0, counted, 0),
        duration_ms=1,
        first_byte_ms=None,
    )
    assert (event.cost_nano, event.holder) == (expected, "gw-1")


def test_a_dead_gateway_is_reported_once_all_that_it_left_was_accepted(tmp_path: Path):
    dead = make_meter(tmp_path, "gw-dead")
    assert dead.admit() is None
    dead.arm(dead.begin(started(1)))
    die(dead)
    heir = make_meter(tmp_path, "gw-heir")
    cut = events_in(tmp_path)[0]
    assert (cut["holder"], cut["outcome"]) == ("gw-dead", "cut")
    assert heir.settled.holders() == ()
    die(heir)  # before it could report
    last = make_meter(tmp_path, "gw-last")
    other = make_meter(tmp_path, "gw-other")  # beside it: not its business
    for meter in (last, other):
        meter.settled.handed_in_s = time.monotonic()
    assert sorted(last.settled.holders()) == ["gw-dead", "gw-heir"]
    assert other.settled.holders() == ()
    last.settled.forget(("gw-dead", "gw-heir"))
    assert last.settled.holders() == ()
    assert not list(tmp_path.glob("settled-*"))
    die(last)
    die(other)


def test_a_gateway_that_ended_in_order_is_reported_by_the_next(tmp_path: Path):
    first = make_meter(tmp_path, "gw-1")
    first.settled.note("gw-1")
    first.seal()
    first.close()
    second = make_meter(tmp_path, "gw-2")
    second.settled.handed_in_s = time.monotonic()
    assert second.settled.holders() == ("gw-1",)
    die(second)


@given(
    st.lists(st.tuples(st.sampled_from(["claim", "free", "count"]), st.integers(0, 7)), max_size=40)
)
def test_the_table_remembers_exactly_what_is_in_flight(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("table") / "inflight-x.map"
    table = InflightTable(path, 8)
    held: dict[int, tuple[str, int]] = {}
    for number, (step, pick) in enumerate(steps):
        if step == "claim":
            slot = table.claim(encode(started(number)))
            assert (slot is None) == (len(held) == 8)
            if slot is not None:
                table.arm(slot)
                held[slot] = (started(number).request_id, 0)
        elif held:
            slot = sorted(held)[pick % len(held)]
            if step == "free":
                table.free(slot)
                del held[slot]
            else:
                table.chunks[slot] = pick
                held[slot] = (held[slot][0], pick)
    found = {(item.started.request_id, item.chunks) for item in read_leftovers(path.read_bytes())}
    assert found == set(held.values())
    assert lock_dead(path) is None
    table.close(remove=False)
    fd = lock_dead(path)
    assert fd is not None
    os.close(fd)


@given(st.binary(max_size=9000))
def test_a_damaged_table_is_read_without_harm(data: bytes):
    assert isinstance(read_leftovers(b"TMTINF01" + data), list)
    assert isinstance(read_leftovers(data), list)


@given(st.integers(1, 6), st.data())
def test_a_torn_line_does_not_count(tmp_path_factory, count: int, data):
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, "gw-1", LIMITS)
    for number in range(count):
        assert spool.reserve() is None
        spool.append(encode(line(number)))
    path, size = spool.segments[0].path, spool.segments[0].size
    raw = path.read_bytes()
    assert raw[size:].strip(b"\0") == b""
    last = len(encode(line(count - 1))) + 1
    torn = data.draw(st.integers(1, last))
    path.write_bytes(raw[: size - torn] + b"\0" * (torn + 100))
    assert whole_bytes(path) == size - last
    spool.close()


def test_segments_rotate_and_are_dropped(tmp_path: Path):
    spool = Spool(tmp_path, "gw-1", LIMITS)
    closed: list[int] = []
    for number in range(20):
        assert spool.reserve() is None
        spool.append(encode(line(number)))
        spool.rotate_if_full(closed.append)
    assert len(spool.segments) > 2
    assert [segment.is_sealed for segment in spool.segments][-1] is False
    total = []
    for segment in list(spool.segments):
        at = 0
        while at < segment.size:
            lines, at = read_lines(segment, at, 3)
            total += [msgspec.json.decode(item)["request_id"] for item in lines]
    assert total == [started(number).request_id for number in range(20)]
    first = spool.segments[0]
    assert first.path.stat().st_size == first.size  # the zeros are cut off
    assert owner_of(first.path) == "gw-1"
    spool.drop(first)
    assert not first.path.exists()
    spool.close()
    for fd in closed:
        os.close(fd)


def test_a_full_spool_refuses_and_takes_again_after_shipping(tmp_path: Path):
    spool = Spool(
        tmp_path, "gw-1", Limits(segment_bytes=2048, spool_step_bytes=4096, spool_bytes_max=4096)
    )
    closed: list[int] = []
    refused = None
    for number in range(50):
        refused = spool.reserve()
        if refused:
            break
        spool.append(encode(line(number)))
        spool.rotate_if_full(closed.append)
    assert refused is not None
    for segment in [item for item in spool.segments if item.is_sealed]:
        spool.drop(segment)
    assert spool.reserve() is None
    spool.close()
    for fd in closed:
        os.close(fd)


@pytest.mark.parametrize("is_written", [False, True])
def test_a_dead_gateways_requests_become_cut_events_once(tmp_path: Path, is_written: bool):
    """`is_written`: it died between writing the event and freeing the slot."""
    dead = make_meter(tmp_path, "gw-dead")
    slots = []
    for number in range(3):
        assert dead.admit() is None
        slots.append(dead.begin(started(number)))
        dead.arm(slots[-1])
    assert dead.admit() is None
    dead.begin(started(7))  # written, but nothing was sent: it never counts
    dead.count(slots[1], 4)
    dead.note_prompt(slots[1], 70, 30)
    dead.finish(slots[0], line(0))
    if is_written:
        dead._spool.append(encode(line(2)))
    dead.touch()
    die(dead)
    heir = make_meter(tmp_path, "gw-heir")
    found = {event["request_id"]: event for event in events_in(tmp_path)}
    assert len(events_in(tmp_path)) == len(found) == 3
    assert found[started(0).request_id]["outcome"] == "completed"
    cut = found[started(1).request_id]
    assert (cut["outcome"], cut["completion_tokens"], cut["token_source"]) == ("cut", 4, "counted")
    assert (cut["prompt_tokens"], cut["cached_tokens"]) == (70, 30)
    assert (cut["status"], cut["duration_ms"]) == (200, 1_000)
    assert found[started(2).request_id]["outcome"] == ("completed" if is_written else "cut")
    assert [path.name for path in tmp_path.glob("inflight-*")] == ["inflight-gw-heir.map"]
    assert {owner_of(path) for path in (tmp_path / "spool").iterdir()} == {"gw-heir"}
    heir.seal()
    heir.close()


def test_a_living_gateway_is_left_alone_and_files_without_a_table_are_adopted(tmp_path: Path):
    alive = make_meter(tmp_path, "gw-alive")
    assert alive.admit() is None
    slot = alive.begin(started(1))
    alive.finish(slot, line(1))
    orphan = tmp_path / "spool" / "gw-gone-00000001.jsonl"
    orphan.write_bytes(encode(line(2)) + b"\n" + b"\0" * 50)
    second = make_meter(tmp_path, "gw-second")
    names = sorted(owner_of(path) for path in (tmp_path / "spool").iterdir())
    assert names == ["gw-alive", "gw-second"]
    for meter in (alive, second):
        meter.seal()
        meter.close()
    third = make_meter(tmp_path, "gw-third")
    assert {event["request_id"] for event in events_in(tmp_path)} == {
        started(1).request_id,
        started(2).request_id,
    }
    third.seal()
    third.close()


def test_recovery_that_is_itself_killed_is_done_again(tmp_path: Path):
    dead = make_meter(tmp_path, "gw-dead")
    assert dead.admit() is None
    dead.arm(dead.begin(started(1)))
    die(dead)
    table = (tmp_path / "inflight-gw-dead.map").read_bytes()
    first = make_meter(tmp_path, "gw-first")
    die(first)
    (tmp_path / "inflight-gw-dead.map").write_bytes(table)  # as if it had died before the unlink
    second = make_meter(tmp_path, "gw-second")
    ids = [event["id"] for event in events_in(tmp_path)]
    assert set(ids) == {event_id_of(started(1).request_id)}
    second.seal()
    second.close()


def test_an_entry_that_reached_no_engine_gives_everything_back(tmp_path: Path):
    meter = make_meter(tmp_path)
    for is_begun in (False, True) * 20:
        entry = Entry(meter, 0.0, 1_000)
        assert entry.admit() is None
        if is_begun:
            entry.begin(started(1))
            entry.arm()
            entry.settle(is_sent=False)
        entry.end(Outcome.FAILED, 0, None, 1.0)
        entry.end(Outcome.FAILED, 0, None, 1.0)
    assert meter.in_use == 0
    assert meter._spool._reserved == 0
    assert events_in(tmp_path) == []
    meter.seal()
    meter.close()


def test_a_request_tried_again_is_in_the_table_at_every_moment(tmp_path: Path):
    meter = make_meter(tmp_path)
    path = next(tmp_path.glob("inflight-*"))
    entry = Entry(meter, 0.0, 1_000)
    assert entry.admit() is None
    seen = []
    for number, is_sent in enumerate([False, True, False, True, False]):
        entry.begin(started(1, replica_id=f"rep_{'a' * 18}{number:02}"))
        seen.append({item.started.replica_id[-1] for item in read_leftovers(path.read_bytes())})
        entry.arm()
        entry.settle(is_sent=is_sent)
    assert seen == [set(), set(), {"1"}, {"2"}, {"3"}]
    assert meter.in_use == 1
    entry.end(Outcome.CUT, 499, None, 1.0)
    assert meter.in_use == 0
    assert [event["replica_id"][-1] for event in events_in(tmp_path)] == ["4"]
    meter.seal()
    meter.close()


def test_a_full_table_refuses(tmp_path: Path):
    meter = make_meter(tmp_path)
    for number in range(8):
        assert meter.admit() is None
        meter.arm(meter.begin(started(number)))
    assert meter.admit() is not None
    meter.forget(3)
    assert meter.admit() is None
    meter.seal()
    meter.close()


def test_a_clean_end_leaves_no_table(tmp_path: Path):
    meter = make_meter(tmp_path)
    meter.seal()
    meter.close()
    assert list(tmp_path.glob("inflight-*")) == []
