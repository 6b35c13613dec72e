"""What an idle system costs besides its engine: memory and processor."""

import os
import time
from pathlib import Path

import pytest

from tests.support.system import Process, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MEMORY_MAX_BYTES = 250 * 10**6
CPU_MAX_CORES = 0.02
SETTLE_S = 5.0  # after the requests of earlier tests
WATCH_S = 20.0


def memory_bytes(process: Process, field: str) -> int:
    """Return ``Rss`` or ``Pss`` (shared pages divided among those that share them)."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"{process} shows no {field}")


def cpu_s(process: Process) -> float:
    """Return the processor time that the process has used, user and system."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(processes: list[Process]) -> dict[Process, float]:
    """Return what part of a core each process used over `WATCH_S`."""
    before = {process: cpu_s(process) for process in processes}
    began = time.monotonic()
    time.sleep(WATCH_S)
    seconds = time.monotonic() - began
    return {process: (cpu_s(process) - before[process]) / seconds for process in processes}


def test_an_idle_system_is_small_and_quiet(own_system: System) -> None:
    assert own_system.serves()
    time.sleep(SETTLE_S)
    ours = [process for process in own_system.processes() if process.role != "engine"]
    assert sorted(p.role for p in ours) == ["control", "gateway", "runner", "up"]
    used = watch(ours)
    if sum(used.values()) >= CPU_MAX_CORES:
        # Neighbours on the machine make the same work dearer, never cheaper: look once more.
        used = watch(ours)
    sizes = {field: {p: memory_bytes(p, field) for p in ours} for field in ("Rss", "Pss")}
    for process in ours:
        megabytes = [f"{field} {sizes[field][process] / 1e6:.0f} MB" for field in sizes]
        print(process.role, *megabytes, f"{used[process]:.2%} of a core")
    sums = [f"{field} {sum(sizes[field].values()) / 1e6:.0f} MB" for field in sizes]
    print("all", *sums, f"{sum(used.values()):.2%} of a core")
    assert sum(sizes["Rss"].values()) < MEMORY_MAX_BYTES
    assert sum(used.values()) < CPU_MAX_CORES
