"""Installs the gateways that ours is measured against, each pinned and in a place of its own.

    python -m bench.peers [--only litellm ...]

Python peers come from PyPI by the hash-locked files in ``bench/peers``, each into a virtual
environment under ``bench/.peers`` (git-ignored); Portkey comes from npm, locked likewise. A lock
that has changed installs anew. LiteLLM 1.82.7 and 1.82.8 were trojans: never install it unlocked.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).with_name("peers")
FOLDER = Path(__file__).with_name(".peers")
PYTHON_PEERS = ("litellm", "sglang-router", "vllm-router", "smg")
NPM_PEERS = ("portkey",)
LIMIT_S = 1_800


class MissingError(Exception):
    """A peer is not here; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[*PYTHON_PEERS, *NPM_PEERS])
    failed = 0
    for name in parser.parse_args().only:
        try:
            folder(name)
        except MissingError as error:
            print(f"{name}: {error}", flush=True)
            failed += 1
    return 1 if failed else 0


def folder(name: str) -> Path:
    """Return where the peer ``name`` is installed, after installing it if need be.

    Raises `MissingError`.
    """
    lock = LOCKS / ("portkey/package-lock.json" if name in NPM_PEERS else f"{name}.txt")
    if not lock.exists():
        msg = f"there is no lock {lock}"
        raise MissingError(msg)
    place, digest = FOLDER / name, hashlib.sha256(lock.read_bytes()).hexdigest()
    mark = place / ".lock"
    if mark.exists() and mark.read_text().strip() == digest:
        return place
    print(f"  installing {name} into {place} (once)", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        if name in NPM_PEERS:
            _install_npm(place, lock)
        else:
            _install_python(place, lock)
    except (OSError, subprocess.SubprocessError) as error:
        msg = f"could not be installed: {_reason(error)}"
        raise MissingError(msg) from error
    mark.write_text(digest + "\n")
    return place


def _install_python(place: Path, lock: Path) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    _quietly([base, "-m", "venv", str(place)])
    install = [str(place / "bin" / "pip"), "install", "--disable-pip-version-check", "-q"]
    _quietly([*install, "--require-hashes", "-r", str(lock)])


def _install_npm(place: Path, lock: Path) -> None:
    for path in (lock, lock.with_name("package.json")):
        shutil.copy(path, place)
    _quietly(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=place)


def _quietly(command: list[str], cwd: Path | None = None) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        ["nice", "-n", "10", *command],
        check=True,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=LIMIT_S,
    )


def _reason(error: Exception) -> str:
    told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return told[-1][:200] if told else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
