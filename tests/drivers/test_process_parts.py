"""The parts of the process driver: this machine as a node, and the look through /proc."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from tramontane.domain.fleet import Device
from tramontane.drivers.process_node import (
    NVIDIA_EVERY_MS,
    RESERVE_BYTES_MIN,
    NvidiaDevices,
    machine_capacity,
    parse_devices,
)
from tramontane.drivers.process_runs import Run, forget
from tramontane.drivers.process_scan import Process, ProcessScan, is_alive, send
from tramontane.runtime.clock import ManualClock

GIB = 1 << 30
REPLICA = "rep_aaaaaaaaaaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("limit", "memory_bytes"),
    [
        (None, 100 * GIB * 9 // 10),
        ("max", 100 * GIB * 9 // 10),
        (str(10 * GIB), 9 * GIB),
        (str(GIB), GIB - RESERVE_BYTES_MIN),
        (str(1 << 20), 0),
        (str(1 << 62), 100 * GIB * 9 // 10),
    ],
)
def test_memory_is_what_machine_and_container_leave(
    tmp_path: Path, limit: str | None, memory_bytes: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       {100 * GIB // 1024} kB\nMemFree:  1 kB\n")
    memory_limit = tmp_path / "memory.max"
    if limit is not None:
        memory_limit.write_text(f"{limit}\n")
    capacity = machine_capacity(meminfo, memory_limit)
    assert capacity.memory_bytes == pytest.approx(memory_bytes, abs=1024)
    assert capacity.cpu_millicores == 1000 * len(os.sched_getaffinity(0))


def test_without_a_total_it_says_what_to_do(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\n")
    with pytest.raises(ValueError, match="give the node's capacity in the settings"):
        machine_capacity(meminfo)


def test_devices_are_read_as_nvidia_smi_writes_them() -> None:
    text = "0, NVIDIA H200, 143771\n1, NVIDIA A100-SXM4-80GB, 81920\n2, Odd, Name, 1024\n"
    assert parse_devices(text) == (
        Device(0, "NVIDIA H200", 143_771 << 20),
        Device(1, "NVIDIA A100-SXM4-80GB", 81_920 << 20),
        Device(2, "Odd, Name", 1024 << 20),
    )
    for noise in ("", "No devices were found\n", "0, GPU, [N/A]\n", "x, GPU, 10\n", ",,\n"):
        assert parse_devices(noise) == ()


def test_devices_are_asked_for_once_a_minute_and_kept_through_failures(tmp_path: Path) -> None:
    tool, count = tmp_path / "nvidia-smi", tmp_path / "count"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {count}\necho "0, Card, 1000"\n')
    tool.chmod(0o755)
    clock = ManualClock()
    devices = NvidiaDevices(clock, str(tool))
    card = (Device(0, "Card", 1000 << 20),)
    assert devices.list() == card
    assert devices.list() == card
    asked = "--query-gpu=index,name,memory.total --format=csv,noheader,nounits\n"
    assert count.read_text() == asked
    tool.write_text("#!/bin/sh\necho broken\nexit 9\n")
    clock.advance(NVIDIA_EVERY_MS)
    assert devices.list() == card  # unknown is not gone
    tool.write_text('#!/bin/sh\necho "1, Other, 1"\n')
    clock.advance(NVIDIA_EVERY_MS)
    assert devices.list() == (Device(1, "Other", 1 << 20),)


def test_without_nvidia_smi_there_are_no_devices() -> None:
    assert NvidiaDevices(ManualClock(), "no-such-tool").list() == ()


def test_the_scan_finds_by_environment_and_forgets_the_dead() -> None:
    mine, other = ProcessScan("ins_mine"), ProcessScan("ins_other")
    assert mine.run() == {}
    child = _sleeper(TRAMONTANE_INSTALLATION="ins_mine", TRAMONTANE_REPLICA=REPLICA)
    try:
        until(mine.run, "the child to be seen")  # a moment passes until it can be read
        for _ in range(2):  # read, then remembered
            found = mine.run()
            assert [process.pid for process in found[REPLICA]] == [child.pid]
            assert not found[REPLICA][0].is_runner
        assert other.run() == {}
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert mine.run() == {}  # though it is still in the table, as a zombie
    child.wait()


def test_a_process_without_a_replica_is_none_of_ours() -> None:
    child = _sleeper(TRAMONTANE_INSTALLATION="ins_mine")
    try:
        assert ProcessScan("ins_mine").run() == {}
    finally:
        child.kill()
        child.wait()


def test_a_young_process_is_looked_at_again_when_it_changes() -> None:
    scan = ProcessScan("ins_mine")
    program = (
        "import os, sys; print(flush=True); sys.stdin.readline();"
        "os.execve('/bin/sleep', ['sleep', '60'],"
        "{'TRAMONTANE_INSTALLATION': 'ins_mine', 'TRAMONTANE_REPLICA': '" + REPLICA + "'})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdout.readline()
        assert scan.run() == {}
        child.stdin.write(b"\n")
        child.stdin.flush()
        until(lambda: REPLICA in scan.run())
    finally:
        child.kill()
        child.communicate()


def test_a_signal_reaches_only_the_process_that_was_meant() -> None:
    child = _sleeper()
    try:
        ticks = _ticks(child.pid)
        send(Process(child.pid, ticks - 1, REPLICA, is_runner=False), 9)
        assert child.poll() is None
        meant = Process(child.pid, ticks, REPLICA, is_runner=False)
        assert is_alive(meant)
        send(meant, 9)
        assert child.wait(5) == -9
        assert not is_alive(meant)
        send(meant, 9)  # gone: nothing happens
    finally:
        child.kill()
        child.wait()


def _sleeper(**env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"], **env})


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.slow
def test_a_run_directory_of_any_depth_is_forgotten(tmp_path: Path) -> None:
    run = Run("att_aaaaaaaaaaaaaaaaaaaa", tmp_path / "attempts" / "att_aaaaaaaaaaaaaaaaaaaa")
    run.dir.mkdir(parents=True)
    here = os.open(run.dir, os.O_RDONLY)
    for _ in range(1_100):  # deeper than Python's stack
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert forget(run, [])
    assert not list(run.dir.parent.iterdir())
