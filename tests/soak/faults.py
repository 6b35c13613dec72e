"""What breaks during a soak, and when: fractions of its length, in the order of their times."""

import asyncio
import mmap
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.gateway import GatewayProcess
from tests.support.stub_control import StubControl

HOUR_NS = 3_600 * 1_000_000_000
NOTHING = resource.RLIM_INFINITY
FULL_BYTES = 1_000  # no file may be longer: as on a full disk, each write fails


class EngineProcess:
    """One stub engine that can be killed and comes back on the same port."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.log = log
        log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.stub_engine", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--log", str(self.log)], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ids(self) -> list[str]:
        """Return the requests that it has seen the head of."""
        return self.log.read_text().split()


class SteppedClock:
    """The wall clock of the gateways, which can be set."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(bytes(8))
        self._library = folder / "clock.so"
        if not shutil.which("gcc"):
            msg = "gcc is missing: apt-get install gcc libc6-dev"
            raise RuntimeError(msg)
        source = Path(__file__).with_name("clock.c")
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True)

    @property
    def variables(self) -> dict[str, str]:
        """Return what a process needs in its environment to go by this clock."""
        return {"LD_PRELOAD": str(self._library), "SOAK_CLOCK": str(self._file)}

    def set(self, ahead_ns: int) -> None:
        """Be so much ahead of the machine's clock from now on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as view:
            view[:] = struct.pack("<q", ahead_ns)


@dataclass
class World:
    """All that can break, and what is broken now."""

    engines: list[EngineProcess]
    gateways: list[GatewayProcess]
    control: StubControl
    clock: SteppedClock
    broken: list[str] = field(default_factory=list)
    kills: int = 0
    engine_kills: int = 0

    async def run(self, length_s: float) -> None:
        """Break one thing after the other over ``length_s``, engines all the time."""
        plan = [
            (0.04, self._kill_gateway(0)),
            (0.09, self._stop_gateway(1)),
            (0.28, self._control_away(length_s / 6)),
            (0.50, self._full_disk(0, length_s * 0.04)),
            (0.55, self._full_disk(1, length_s * 0.04)),
            (0.62, self._step_clock(HOUR_NS, length_s * 0.04)),
            (0.69, self._step_clock(-2 * HOUR_NS, length_s * 0.04)),
        ]
        await asyncio.gather(
            *(_at(length_s * part, doing) for part, doing in plan),
            self._kill_engines(length_s * 0.86),
        )

    async def _kill_engines(self, length_s: float) -> None:
        for number in range(10):
            await asyncio.sleep(length_s / 10)
            engine = self.engines[number % len(self.engines)]
            self.broken.append("engine")
            engine.kill()
            self.engine_kills += 1
            await asyncio.sleep(min(2.0, length_s / 40))
            engine.start()
            self.broken.remove("engine")

    async def _kill_gateway(self, number: int) -> None:
        self.broken.append("gateway")
        self.kills += 1
        await asyncio.to_thread(self.gateways[number].end, signal.SIGKILL)
        self.gateways[number].start()
        await asyncio.to_thread(self.gateways[number].wait_ready)
        self.broken.remove("gateway")

    async def _stop_gateway(self, number: int) -> None:
        self.broken.append("gateway")
        status = await asyncio.to_thread(self.gateways[number].end, signal.SIGTERM)
        assert status == 0, f"a gateway ended with {status}"
        self.gateways[number].start()
        await asyncio.to_thread(self.gateways[number].wait_ready)
        self.broken.remove("gateway")

    async def _control_away(self, length_s: float) -> None:
        self.broken.append("control")
        await asyncio.to_thread(self.control.stop)
        await asyncio.sleep(length_s)
        self.control.start()
        self.broken.remove("control")

    async def _full_disk(self, number: int, length_s: float) -> None:
        process = self.gateways[number].process
        assert process is not None
        self.broken.append("disk")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, NOTHING))
        await asyncio.sleep(length_s)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (NOTHING, NOTHING))
        self.broken.remove("disk")

    async def _step_clock(self, ahead_ns: int, length_s: float) -> None:
        self.broken.append("clock")
        self.clock.set(ahead_ns)
        await asyncio.sleep(length_s)
        self.clock.set(0)
        self.broken.remove("clock")


async def _at(after_s: float, doing: Coroutine[None, None, None]) -> None:
    await asyncio.sleep(after_s)
    await doing
