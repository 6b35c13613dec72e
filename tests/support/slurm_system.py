"""An installation whose replicas and jobs run on the tests' Slurm cluster, under a tenant's user.

The nodes share no environment with the tests: engines get one of their own in the cluster's
folder, with a Python that every user may run.
"""

import contextlib
import itertools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tramontane
from tests.support.system import DEMO, System
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster

CLUSTER: Final = "alps"
DEMO_MODEL: Final = Path(__file__).parents[2] / "models" / "demo" / "tramontane-demo-q8_0.gguf"


def node_python() -> Path:
    """Return an interpreter of this version that users other than ours may run."""
    own = Path(sys.executable).resolve()
    return own if _is_open(own) else Path(f"/usr/bin/python3.{sys.version_info.minor}")


def make_engine_venv(folder: Path) -> Path:
    """Make, once, what engines need on a node: a Python, xllamacpp and the engine's server."""
    venv = folder / "engine-venv"
    if venv.exists():
        return venv
    draft = folder / f"engine-venv-{os.getpid()}"
    packages = draft / "packages"
    (packages / "tramontane").mkdir(parents=True)
    source = Path(tramontane.__file__).parent
    for name in ("__init__.py", "llama_server.py"):
        shutil.copy(source / name, packages / "tramontane" / name)
    import xllamacpp  # noqa: PLC0415 - only here, it is large

    shutil.copytree(Path(xllamacpp.__file__).parent, packages / "xllamacpp")
    (draft / "bin").mkdir()
    python = draft / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={venv}/packages\nexec {node_python()} "$@"\n')
    for path in (draft, *draft.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path == python else 0o644)
    draft.rename(venv)
    return venv


def settings_text(slurm: SlurmCluster, port: int, **more: Any) -> str:
    """Return the settings file of an installation that runs everything on ``slurm``.

    It drains no node by itself: tests make things fail one after the other, and need all four.
    """
    venv = make_engine_venv(slurm.folder)
    options = {
        "url": slurm.rest_url,
        "jwt_key": str(slurm.jwt_key),
        "work_root": str(slurm.work_root),
        "slurm_conf": str(slurm.conf),
        "default_user": "tmt-a",
        "report_url": f"http://127.0.0.1:{port}",
        "python": str(node_python()),
        "venv": str(venv),
        "site": "test",
        "country": "FR",
    } | more
    lines = [f"{name} = {_toml(value)}" for name, value in options.items()]
    return "\n".join(
        ("run_locally = false", "node_failures_max = 0", f"[slurm.{CLUSTER}]", *lines, "")
    )


def slurm_system(slurm: SlurmCluster, home: Path, **options: Any) -> System:
    """Return an installation on ``slurm`` that is not started; ``options`` are the section's."""
    model = slurm.folder / DEMO_MODEL.name
    if not model.exists():
        shutil.copy(DEMO_MODEL, model)
        model.chmod(0o644)
    slurm.add_user("tmt-a")
    slurm.add_user("tmt-b")
    system = System(home, demo_model=model)
    (home.parent / "tramontane.toml").write_text(settings_text(slurm, system.port, **options))
    return system


@contextlib.contextmanager
def running_on(slurm: SlurmCluster, home: Path, **options: Any) -> Iterator[System]:
    """Run an installation on ``slurm`` for a while; no job of it is left afterwards."""
    system = slurm_system(slurm, home, **options)
    try:
        system.start()
        yield system
    finally:
        system.close()
        cancel_all(slurm)


def cancel_all(slurm: SlurmCluster) -> None:
    """End every job of the cluster, whoever's, and wait until all are gone."""
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        for job_id in slurm.run("squeue", "--noheader", "--format=%A").split():
            slurm.run("scancel", "--full", "--signal=KILL", job_id)
            slurm.run("scancel", job_id)


def scale(system: System, replicas: int) -> list[dict[str, Any]]:
    """Scale the demo deployment, wait until that serves, and return its replicas."""
    system.cloud("POST", f"/deployments/{DEMO}/scale", json={"replicas": replicas})
    return settled(system, replicas)


def settled(system: System, replicas: int) -> list[dict[str, Any]]:
    """Wait until just so many replicas run and all are ready; return them."""

    def look() -> list[dict[str, Any]] | None:
        found = serving(system)
        is_settled = all(replica["status"] == "ready" for replica in found)
        return found if len(found) == replicas and is_settled else None

    return until(look, f"{replicas} ready replicas", 60)


def serving(system: System) -> list[dict[str, Any]]:
    """Return the replicas that hold a place."""
    rows = system.pages("/replicas")
    return [row for row in rows if row["status"] not in {"stopped", "failed"}]


def jobs_of(slurm: SlurmCluster) -> dict[str, dict[str, str]]:
    """Return the living Slurm jobs by name: user, state, node."""
    form = "--format=%j|%u|%T|%N|%A"
    lines = slurm.run("squeue", "--noheader", form).splitlines()
    keys = ("name", "user", "state", "node", "number")
    found: list[dict[str, str]] = [dict(zip(keys, line.split("|"), strict=True)) for line in lines]
    assert len({job["name"] for job in found}) == len(found), f"one was submitted twice: {found}"
    return {job["name"]: job for job in found}


def node_names(system: System) -> dict[str, str]:
    """Return the nodes' names by id."""
    return {node["id"]: node["name"] for node in system.pages("/nodes")}


def engines(slurm: SlurmCluster, replica_id: str | None = None) -> dict[int, str]:
    """Return the runners and engines on the cluster's nodes: the replica's id by pid."""
    found: dict[int, str] = {}
    here = f"SLURM_CLUSTER_NAME={slurm.name}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            words = (entry / "cmdline").read_bytes().split(b"\0")
            given = dict(itertools.pairwise(words))
            marks = [
                v.partition(b"=")[2] for v in variables if v.startswith(b"TRAMONTANE_REPLICA=")
            ]
            marks += [given[b"--replica"]] if b"--replica" in given else []
            for mark in marks if here in variables else ():
                if replica_id in (None, mark.decode()):
                    found[int(entry.name)] = mark.decode()
    return found


def _is_open(path: Path) -> bool:
    """Tell whether other users can reach and run the file."""
    folders = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    return folders and bool(path.stat().st_mode & stat.S_IXOTH)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    return f'"{value}"'
