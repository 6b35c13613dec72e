"""Thirty minutes of mixed load with faults: `make soak`, or with SOAK_MINUTES=1.

    python -m tests.soak.run [--minutes 30] [--seed 1]

Two gateways, three engines that are killed one after the other, a control plane that goes away
for a sixth of the time, a gateway killed and one restarted, full disks, stepped clocks. At the
end everything is accounted for: each request that an engine saw has exactly one usage event with
the tokens that its client read, no call is stuck, no connection is left, memory is flat.
"""

import argparse
import asyncio
import collections
import os
import random
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.soak.faults import EngineProcess, SteppedClock, World
from tests.soak.load import Call, Load, every
from tests.support.gateway import PROJECT, GatewayProcess, make_keys, make_route, make_table
from tests.support.stub_control import StubControl
from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.spending.pricing import Prices

CLIENTS = 40
SETTLE_S = 40.0  # for what is still on its way to the control plane at the end
EXPECTED = frozenset({200, 429, 500, 502, 503, 504})  # 500 is what a failing engine says
GROWTH_BYTES = 6_000_000  # of a gateway's memory, beside a tenth of it
WARM_BYTES = 15_000_000  # what it may take besides in a run too short to be warm early
WARM_S = 600.0
SOCKETS_LEFT = 28  # a gateway's own: 16 that take clients, to the control plane, to engines


@dataclass
class Memory:
    """What the gateways held, over time."""

    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def note(self, gateways: list[GatewayProcess], at: float) -> None:
        for number, gateway in enumerate(gateways):
            if gateway.process is None:
                continue
            try:
                fields = Path(f"/proc/{gateway.process.pid}/statm").read_text().split()
            except OSError:
                continue
            size = int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
            self.samples.setdefault(f"gateway {number}", []).append((at, size))

    def faults(self, length_s: float) -> list[str]:
        """Return whose memory grew from soon after the restarts to the last tenth."""
        allowed = GROWTH_BYTES + (WARM_BYTES if length_s < WARM_S else 0)
        found: list[str] = []
        for name, samples in self.samples.items():
            early = [size for at, size in samples if 0.15 <= at < 0.28]
            late = [size for at, size in samples if at >= 0.9]
            before, after = statistics.median(early), statistics.median(late)
            print(f"  {name}: {before / 1e6:.1f} MB early, {after / 1e6:.1f} MB late")
            if after > before * 1.1 + allowed:
                found.append(f"{name} grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = os.environ.get("SOAK_MINUTES") or "30"
    parser.add_argument("--minutes", type=float, default=float(given))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tramontane-soak-") as name:
        faults = asyncio.run(soak(Path(name), options.minutes * 60, options.seed))
    for fault in faults:
        print(f"FAULT: {fault}")
    print("soak: " + (f"{len(faults)} faults" if faults else "all is accounted for"))
    return 1 if faults else 0


async def soak(folder: Path, length_s: float, seed: int) -> list[str]:
    """Run it in ``folder``; return what was wrong."""
    clock = SteppedClock(folder)
    engines = [EngineProcess(folder / f"engine-{number}.log") for number in range(3)]
    for engine in engines:
        engine.start()
    control = StubControl(table_for([f"127.0.0.1:{engine.port}" for engine in engines]))
    control.start()
    gateways = [
        GatewayProcess(
            folder / f"home-{number}", control.url, name=f"gw{number}", **clock.variables
        )
        for number in range(2)
    ]
    try:
        for gateway in gateways:
            gateway.start()
        for gateway in gateways:
            await asyncio.to_thread(gateway.wait_ready, 30)
        world = World(engines, gateways, control, clock)
        load = Load([gateway.port for gateway in gateways], random.Random(seed))
        memory = Memory()
        await _under_load(world, load, memory, length_s)
        return await _account(world, load, memory, length_s)
    finally:
        for gateway in gateways:
            gateway.close()
        for engine in engines:
            engine.kill()
        control.stop()


def table_for(addresses: list[str]):
    """Return a route table for two projects; one has limits and a budget, all out of reach."""
    keys = {
        hashed: replace(key, limit_ids=("lim_a",) if key.project_id == PROJECT else ())
        for hashed, key in make_keys().items()
    }
    limit = Limit("lim_a", LimitScope.PROJECT, PROJECT, None, 10**6, 10**9, 10**4, 10**12)
    routes = [
        make_route(addresses, prices=Prices(200_000, 600_000, 50_000), project_id=project)
        for project in sorted({key.project_id for key in keys.values()})
    ]
    return make_table(*routes, keys=keys, limits={limit.id: limit})


async def _under_load(world: World, load: Load, memory: Memory, length_s: float) -> None:
    began = time.monotonic()

    def note() -> None:
        memory.note(world.gateways, (time.monotonic() - began) / length_s)

    def say() -> None:
        done = len(load.calls)
        refused = sum(call.status not in {0, 200} for call in load.calls)
        broken = ", ".join(world.broken) or "nothing"
        at = f"[{time.monotonic() - began:6.0f} s]"
        told = f"{refused} refused, {len(load.stuck)} stuck, {len(world.control.events)} events"
        print(f"{at} {done} calls, {told}; broken: {broken}", flush=True)

    beside = [
        asyncio.create_task(every(max(0.25, length_s / 400), note)),
        asyncio.create_task(every(max(3.0, length_s / 60), say)),
    ]
    clients = asyncio.create_task(load.run(CLIENTS))
    breaking = asyncio.create_task(world.run(length_s))
    await asyncio.sleep(length_s)
    load.is_over = True
    await breaking
    await clients
    for task in beside:
        task.cancel()
    say()


async def _account(world: World, load: Load, memory: Memory, length_s: float) -> list[str]:
    """Wait for what is on its way, then compare what everybody saw."""
    seen = {request_id for engine in world.engines for request_id in engine.ids()}
    events = world.control.events
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and any(_event_id(one) not in events for one in seen):
        await asyncio.sleep(0.2)
    faults = _compare(load.calls, seen, events, kills=world.kills)
    faults += [f"a {call.kind} call is stuck: {call}" for call in load.stuck]
    for gateway in world.gateways:
        faults += await asyncio.to_thread(_rest, gateway)
    faults += memory.faults(length_s)
    by_status = collections.Counter(call.status or call.told for call in load.calls)
    refusals = collections.Counter(_message(call) for call in load.calls if call.status > 200)
    killed = f"{world.engine_kills} engines and {world.kills} gateways were killed"
    print(f"  {len(load.calls)} calls: {dict(by_status.most_common())}; {killed}")
    twice = f"{world.control.duplicates} sent twice"
    print(f"  {len(seen)} reached an engine, {len(events)} usage events, {twice}")
    for message, count in refusals.most_common(12):
        print(f"  {count:6d} x {message}")
    for wrong in sorted({call.told for call in load.calls if call.status not in EXPECTED | {0}}):
        faults.append(f"a refusal that nothing explains: {wrong}")
    return faults


def _compare(calls: list[Call], seen: set[str], events: dict, *, kills: int) -> list[str]:
    faults = [
        f"{one} reached an engine and has no event" for one in seen if _event_id(one) not in events
    ]
    unseen = [name for name in events if "req_" + name[4:] not in seen]
    if len(unseen) > kills:  # one may be between its slot and its first byte when a gateway dies
        faults.append(f"{len(unseen)} events of requests that no engine saw: {unseen[:3]}")
    for call in calls:
        if call.status != 200 or call.kind == "failing":
            continue
        event = events.get(_event_id(call.request_id))
        if event is None:
            faults.append(f"a client got 200 and there is no event: {call}")
        elif call.is_whole and event["outcome"] != "completed":
            faults.append(f"a whole reply is called {event['outcome']}: {call}")
        elif call.is_whole and call.kind != "embeddings":
            if event["completion_tokens"] != call.tokens:
                faults.append(f"{event['completion_tokens']} tokens were counted: {call}")
        elif not call.is_whole and event["outcome"] == "completed" and call.told != "left":
            faults.append(f"a cut reply is called completed: {call}")
    return faults[:20]


def _rest(gateway: GatewayProcess) -> list[str]:
    """Return what is wrong with a gateway that nobody calls any more."""
    process = gateway.process
    if process is None or process.poll() is not None:
        return ["a gateway has ended"]
    if gateway.chat().status_code != 200:
        return ["a gateway does not serve at the end"]
    deadline = time.monotonic() + 15
    while (left := _sockets(process.pid)) > SOCKETS_LEFT:
        if time.monotonic() > deadline:
            return [f"{left} sockets are left open"]
        time.sleep(0.2)
    return []


def _sockets(pid: int) -> int:
    kinds = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds.append(str(entry.readlink()))
        except OSError:
            continue
    return sum(kind.startswith("socket:") for kind in kinds)


def _message(call: Call) -> str:
    found = re.search(r'"message":"([^"]*)"', call.told)
    text = re.sub(
        r"(rep|req|dep|prj|lim|key)_\w+|127[\d.:]+", r"\1_", found[1] if found else call.told
    )
    return f"{call.status} {text[:120]}"


def _event_id(request_id: str) -> str:
    return "evt_" + request_id[4:]


if __name__ == "__main__":
    sys.exit(main())
