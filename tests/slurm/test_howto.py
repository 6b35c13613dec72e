"""Every command of docs/howto/slurm.md runs, in order, as it stands on the page."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer
from tests.support.slurm_system import cancel_all
from tests.support.system import free_port
from tramontane.dev.slurm.cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "slurm.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"(?:^export|(?<=\s))\s*([A-Z_]+)=", re.MULTILINE)


def names_of(block: str) -> set[str]:
    """Return the names that a block of exports sets."""
    return set(_EXPORT.findall(block))


def exports(values: dict[str, str]) -> str:
    """Return a block that sets ``values``."""
    return "".join(f"export {name}='{value}'\n" for name, value in values.items())


def end_all(mark: str) -> None:
    """End every process that has ``mark`` in its command line or its folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            told = (entry / "cmdline").read_bytes().decode(errors="replace")
            if mark in told or str((entry / "cwd").readlink()).startswith(mark):
                os.kill(int(entry.name), signal.SIGKILL)


def test_the_page_runs_from_top_to_bottom(
    slurm: SlurmCluster, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    first, *blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) >= 10
    ports = [str(free_port()) for _ in range(4)]
    state = tmp_path / "state"
    values = {
        "SLURM_CONF": str(slurm.conf),
        "SLURMRESTD": slurm.rest_url,
        "JWT_KEY": str(slurm.jwt_key),
        "WORK_ROOT": str(slurm.work_root),
        "ADMIN_DATABASE": postgres_server.url("postgres"),
        "DATABASE": postgres_server.url("tramontane").replace("tramontane@", "tramontane_control@"),
        "STATE": str(state),
        "CONTROL_PORT": ports[0],
        "GATEWAY_PORTS": f"{ports[1]} {ports[2]}",
        "PUBLIC_PORT": ports[3],
    }
    assert names_of(first) == set(values)
    environment = {name: value for name, value in os.environ.items() if "TRAMONTANE" not in name}
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = [str(Path(sys.executable).parent), environment["PATH"], "/usr/sbin", *map(str, tools)]
    script = "set -euo pipefail\n" + exports(values) + "\n".join(blocks)
    output = tmp_path / "output.txt"
    try:
        with output.open("wb") as file:  # a pipe would be held open by what keeps running
            done = subprocess.run(
                ["bash", "-x", "-c", script],
                env=environment | slurm.env() | {"PATH": ":".join(path)},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=150,
                check=False,
            )
            assert done.returncode == 0, f"it ended with {done.returncode}"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        told = "\n".join(p.read_text(errors="replace")[-3_000:] for p in state.glob("*.out"))
        said = output.read_text(errors="replace")[-6_000:]
        raise AssertionError(f"{error}\n{said}\n{told}") from None
    finally:
        end_all(str(state))
        cancel_all(slurm)
    for node in ("0", "1"):
        assert f"node {node} of 2, master " in output.read_text()
