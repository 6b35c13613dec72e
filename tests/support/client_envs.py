"""Environments of the official clients: one virtual environment each, from hash-locked pins.

They are made on demand below ``.venvs`` and kept until the pins change: a stamp file holds the
SHA-256 of the requirements file and the interpreter's version. Installing never falls back to
an unlocked package or to a build from source.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CLIENTS: Final = ("openai-1", "openai-2", "openai-3", "mistralai-1", "mistralai-2", "mistralai-3")
FRAMEWORKS: Final = ("langchain",)  # adapters that others make
TOOLS: Final = ("prometheus", "otel", "schemathesis")  # others' code that tests use
INSTALL_TIMEOUT_S: Final = 180  # one environment; near a registry it takes 4 to 9 s
_AT_A_TIME: Final = 2  # unpacking is bound by the processor


class ClientEnvironmentError(Exception):
    """An environment could not be made; the message holds the installer's last lines."""


@dataclass(frozen=True)
class ClientEnvironment:
    """One client release and the interpreter that has it installed."""

    name: str
    python: Path

    def run(self, script: Path, *arguments: str, timeout_s: float) -> str:
        """Run ``script`` in the environment and return what it printed; raise if it failed.

        Nothing of the caller's environment reaches it but the path of programs: proxies, keys
        and base URLs of a developer's shell must not decide a test.
        """
        done = subprocess.run(
            [str(self.python), "-I", str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
        )
        if done.returncode != 0:
            msg = f"{script.name} failed in {self.name} with {done.returncode}:\n{done.stderr}"
            raise AssertionError(msg)
        return done.stdout


def make_all() -> dict[str, ClientEnvironment]:
    """Make every environment that is missing or stale, two at a time."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        names = CLIENTS + FRAMEWORKS + TOOLS
        return dict(zip(names, pool.map(make, names), strict=True))


def make(name: str) -> ClientEnvironment:
    """Return the environment ``name``, made now unless it is up to date."""
    root = REPOSITORY / ".venvs"
    root.mkdir(exist_ok=True)
    requirements = REPOSITORY / "requirements" / "clients" / f"{name}.txt"
    if name == "otel":  # an extra of ours
        requirements = REPOSITORY / "requirements" / "otel.txt"
    folder = root / name
    environment = ClientEnvironment(name, folder / "bin" / "python")
    stamp = folder / "stamp"
    wanted = _stamp_of(requirements)
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be making the same one
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, environment.python, requirements)
            stamp.write_text(wanted)
    return environment


def _stamp_of(requirements: Path) -> str:
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    return f"{digest} {sys.version}\n"


def _install(folder: Path, python: Path, requirements: Path) -> None:
    make_folder = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    install += ["--no-input", "--disable-pip-version-check", "--no-compile"]
    install += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", str(requirements)]
    for command in (make_folder, install):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            msg = f"{folder.name}: not installed within {INSTALL_TIMEOUT_S} s; is a registry near?"
            raise ClientEnvironmentError(msg) from error
        if done.returncode != 0:
            told = (done.stdout + done.stderr)[-2000:]
            msg = f"{folder.name}: cannot install {requirements.name}:\n{told}"
            raise ClientEnvironmentError(msg)


def _main() -> None:
    try:
        make_all()
    except ClientEnvironmentError as error:
        sys.exit(f"client environments: {error}")


if __name__ == "__main__":
    _main()
