"""This machine as a node: its processors, memory and NVIDIA devices."""

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tramontane.domain.fleet import Device
from tramontane.domain.resources import Resources
from tramontane.runtime.clock import Clock

# What the operating system, the control plane and the gateway keep for themselves.
RESERVE_BYTES_MIN: Final = 512 << 20
RESERVE_SHARE: Final = 10  # a tenth
NVIDIA_SMI: Final = "nvidia-smi"
NVIDIA_TIMEOUT_S: Final = 5  # with a broken driver it hangs; without persistence mode it takes 2 s
NVIDIA_EVERY_MS: Final = 60_000  # devices seldom come and go
_MEBIBYTE: Final = 1 << 20

log = logging.getLogger(__name__)


def machine_capacity(
    meminfo: Path = Path("/proc/meminfo"),
    memory_limit: Path = Path("/sys/fs/cgroup/memory.max"),
) -> Resources:
    """Return what replicas may use of this machine: all processors, memory less a reserve.

    Processors are those that this process may run on; memory is the machine's or, when lower, the
    container's (cgroup v2). Devices are counted by `NvidiaDevices`.
    """
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    if match is None:
        msg = f"{meminfo} has no line MemTotal: give the node's capacity in the settings"
        raise ValueError(msg)
    total = int(match[1]) * 1024
    try:
        limit = memory_limit.read_text().strip()
    except OSError:
        limit = "max"
    if limit.isdigit():
        total = min(total, int(limit))
    reserve = max(RESERVE_BYTES_MIN, total // RESERVE_SHARE)
    return Resources(
        cpu_millicores=1000 * len(os.sched_getaffinity(0)), memory_bytes=max(0, total - reserve)
    )


class NvidiaDevices:
    """The NVIDIA devices of this machine, asked for at most once a minute."""

    def __init__(self, clock: Clock, command: str = NVIDIA_SMI) -> None:
        self._clock = clock
        self._command = command
        self._devices: tuple[Device, ...] = ()
        self._asked_at_ms: int | None = None

    def list(self) -> tuple[Device, ...]:
        """Return the devices; those of the last answer while `nvidia-smi` does not answer."""
        now_ms = self._clock.now_ms()
        if self._asked_at_ms is None or now_ms - self._asked_at_ms >= NVIDIA_EVERY_MS:
            self._asked_at_ms = now_ms
            path = shutil.which(self._command)
            if path is not None:
                self._ask(path)
        return self._devices

    def _ask(self, path: str) -> None:
        query = "--query-gpu=index,name,memory.total"
        try:
            done = subprocess.run(
                [path, query, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=NVIDIA_TIMEOUT_S,
                check=True,
                stdin=subprocess.DEVNULL,
            )
            self._devices = parse_devices(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log.warning("%s gave no answer, keeping the devices known so far: %s", path, error)


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read lines ``index, name, MiB``, as `nvidia-smi --format=csv,noheader,nounits` writes them.

    A device whose memory it cannot tell (``[N/A]``) is left out: nothing could be placed on it.
    """
    devices: list[Device] = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        if index.strip().isdigit() and memory.strip().isdigit():
            devices.append(Device(int(index), name.strip(), int(memory) * _MEBIBYTE))
    return tuple(devices)
