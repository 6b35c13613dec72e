"""Runs Slurm's own commands: argument lists only, never a shell, bounded in time and output."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tramontane.drivers.base import DriverUnavailableError

OUTPUT_CHARS_MAX: Final = 16 << 20
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class CommandRefusedError(ValueError):
    """The command ran and said no; the text is what it said."""


def run_command(argv: Sequence[str], slurm_conf: Path | None, timeout_s: float) -> str:
    """Return what a command of Slurm prints.

    Raises `CommandRefusedError` with its complaint, and `DriverUnavailableError` when it cannot
    be run, or the cluster does not answer it in time.
    """
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= {"SLURM_CONF": str(slurm_conf)} if slurm_conf else {}
    try:
        done = subprocess.run(
            list(argv),
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{argv[0]} did not answer within {timeout_s:g} s"
        raise DriverUnavailableError(msg) from error
    except OSError as error:
        msg = f"cannot run {argv[0]}: {error.strerror}"
        raise DriverUnavailableError(msg) from error
    if not done.returncode:
        return done.stdout[:OUTPUT_CHARS_MAX]
    told = (done.stderr or done.stdout).strip()[:500] or f"it left with {done.returncode}"
    if "Unable to contact slurm controller" in told or "Connection refused" in told:
        raise DriverUnavailableError(f"{argv[0]}: {told}")
    raise CommandRefusedError(f"{argv[0]}: {told}")
