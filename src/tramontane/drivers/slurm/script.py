"""The batch script of one job: constant shell text, the operator's lines, and base64.

Nothing that a tenant chose is in it but inside of the base64 of ``launch.json``, so no value of a
tenant can be read as shell. Names of folders come from settings and ids, and are quoted.
"""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SCRIPT_BYTES_MAX: Final = 3 << 20  # Slurm's own limit is 4 MiB (max_script_size)
_END: Final = "TRAMONTANE_END"  # no line of base64 has an underscore


@dataclass(frozen=True, slots=True)
class Batch:
    """What a script carries and starts. Everything but ``launch_json`` is ours or the operator's.

    ``folders`` are made below ``root``, which exists; the last one is the run directory.
    ``subject`` is ``--replica`` or ``--attempt`` and its id. ``engine_python`` None is ``python``.
    """

    root: str
    folders: tuple[str, ...]
    subject: tuple[str, str]
    launch_json: bytes
    runner: bytes
    nodes: int
    cpus: int
    report_url: str | None
    python: str
    engine_python: str | None
    setup: tuple[str, ...] = ()


def build(batch: Batch) -> str:
    """Return the script. Raises ValueError when it is longer than Slurm takes."""
    script = "\n".join((*_prologue(batch), *_payloads(batch), *_start(batch), ""))
    if len(script) > SCRIPT_BYTES_MAX:
        msg = (
            f"what it ships makes a batch script of {len(script) >> 10} KiB, and Slurm takes"
            f" {SCRIPT_BYTES_MAX >> 10}: put large files into the shared folder instead"
        )
        raise ValueError(msg)
    return script


def _prologue(batch: Batch) -> Sequence[str]:
    return (
        "#!/bin/bash",
        "# One job of Tramontane. Values of tenants are in the base64 below and nowhere else.",
        "umask 077",
        f"cd -- {shlex.quote(batch.root)} || exit 73",
        *(
            line
            for folder in batch.folders
            for line in (
                f"mkdir -- {shlex.quote(folder)} 2>/dev/null",
                f"cd -P -- {shlex.quote(folder)} || exit 73",
            )
        ),
        "exec >>slurm.log 2>&1 </dev/null",
    )


def _payloads(batch: Batch) -> Sequence[str]:
    lines: list[str] = []
    for name, content in (("launch.json", batch.launch_json), ("runner.pyz", batch.runner)):
        # A second job of the same id writes the same: each its own draft, put in place as a whole.
        draft = f'"{name}.$SLURM_JOB_ID"'
        lines += [
            f"base64 -d >{draft} <<'{_END}' || exit 73",
            *base64.encodebytes(content).decode().splitlines(),
            _END,
            f"mv -f -- {draft} {name} || exit 73",
        ]
    return lines


def _start(batch: Batch) -> Sequence[str]:
    runner = [batch.python, "-I", "-S", "runner.pyz", "--run-dir", ".", *batch.subject]
    runner += ["--host", "auto"]
    if batch.engine_python:
        runner += ["--python", batch.engine_python]
    if batch.report_url:
        runner += ["--report-url", batch.report_url]
    if batch.nodes > 1:
        runner += ["--nodes", str(batch.nodes)]
        steps = [f"--nodes={batch.nodes}", f"--ntasks={batch.nodes}", "--ntasks-per-node=1"]
        steps += [f"--cpus-per-task={batch.cpus}", "--kill-on-bad-exit=1", "--cpu-bind=none"]
        runner = ["srun", *steps, "--output=slurm.log", "--open-mode=append", *runner]
    return (*batch.setup, f'exec {shlex.join(runner)} --claim "$SLURM_JOB_ID"')
