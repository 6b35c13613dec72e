"""The Vercel AI SDK's packages, installed from their lock file below ``.venvs``.

Kept until the lock file changes. No script of a package is run.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.client_envs import INSTALL_TIMEOUT_S, REPOSITORY, ClientEnvironmentError

SOURCE: Final = REPOSITORY / "tests" / "clients" / "vercel"


def run(*arguments: str, timeout_s: float) -> str:
    """Run the scenario with node and return what it printed; raise if it failed."""
    folder = make()
    shutil.copy(SOURCE / "scenario.mjs", folder)
    done = subprocess.run(
        ["node", str(folder / "scenario.mjs"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
    )
    if done.returncode != 0:
        msg = f"the Vercel scenario failed with {done.returncode}:\n{done.stderr}"
        raise AssertionError(msg)
    return done.stdout


def make() -> Path:
    """Return the folder with the packages, made now unless it is up to date."""
    folder = REPOSITORY / ".venvs" / "vercel"
    folder.parent.mkdir(exist_ok=True)
    lock_file = (SOURCE / "package-lock.json").read_bytes()
    wanted, stamp = hashlib.sha256(lock_file).hexdigest(), folder / "stamp"
    with (folder.parent / "vercel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be making it
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, folder)
            _install(folder)
            stamp.write_text(wanted)
    return folder


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"vercel: cannot run npm: {error}"
        raise ClientEnvironmentError(msg) from error
    if done.returncode != 0:
        msg = f"vercel: cannot install the packages:\n{(done.stdout + done.stderr)[-2000:]}"
        raise ClientEnvironmentError(msg)


if __name__ == "__main__":
    try:
        make()
    except ClientEnvironmentError as error:
        sys.exit(f"client environments: {error}")
