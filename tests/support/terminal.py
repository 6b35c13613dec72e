"""Runs a command of ``tramontane`` on a terminal, as a person would."""

import os
import pty
import select
import signal
import subprocess
import sys
import time


class Terminal:
    """A command on a pseudo-terminal: type, and wait for what must be shown."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._primary, secondary = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tramontane.main", *arguments],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=environment,
            start_new_session=True,
        )
        os.close(secondary)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._primary, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def expect(self, text: str, timeout_s: float = 20.0) -> None:
        """Read on until ``text`` is shown, and forget what was shown up to it."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.shown:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"waited in vain for {text!r} after {self.shown!r}"
            if select.select([self._primary], [], [], left_s)[0]:
                self.shown += os.read(self._primary, 65_536).decode()
        self.shown = self.shown.split(text, 1)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._primary)
