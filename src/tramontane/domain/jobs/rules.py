"""What a job may look like: every check that needs nothing but the wish itself.

Each refusal says what was wrong, what was expected and the nearest thing that would pass. Whether
it fits the clusters is `fit`'s question. No refusal quotes a value of the environment or a file.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tramontane.domain.ids import is_dns_label, prefix_of
from tramontane.domain.jobs.attempt import ShippedFile, Topology
from tramontane.domain.jobs.job import SCRIPT_PATH, JobSpec
from tramontane.domain.launch import PriorityClass
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.resources import Resources

NODES_MAX: Final = 1_024
ARRAY_MAX: Final = 1_000  # more is a batch, or a loop inside the command
RETRIES_MAX: Final = 100
DEPENDS_ON_MAX: Final = 100
TIME_LIMIT_S_MAX: Final = 90 * 86_400
TIME_LIMIT_S_DEFAULT: Final = 3_600
HANG_S_MIN: Final = 2  # a heartbeat is looked at once a second
CPU_MILLICORES_DEFAULT: Final = 1_000
MEMORY_BYTES_DEFAULT: Final = 1 << 30
FILES_MAX: Final = 200
FILES_BYTES_MAX: Final = 1 << 20  # of all together, decoded; more belongs on a shared folder
PATH_CHARS_MAX: Final = 255
COMMAND_WORDS_MAX: Final = 1_000
# Linux holds one argument, and one NAME=VALUE, to 128 KiB.
COMMAND_CHARS_MAX: Final = 100_000
ENV_MAX: Final = 200
ENV_CHARS_MAX: Final = 100_000
SCRIPT_CHARS_MAX: Final = 256 << 10

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a scheduler or Tramontane itself reads: a job that set these would change how it is run.
_RESERVED_PREFIXES: Final = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SPANK_", "TRAMONTANE_")
# Which devices an attempt sees is not its own choice.
_RESERVED_NAMES: Final = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
    }
)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A wish for a job: either ``command`` or ``script``; ``env`` and ``files`` as in a launch."""

    name: str
    command: tuple[str, ...] = ()
    script: str | None = None
    nodes: int = 1
    devices: int = 0
    cpu_millicores: int = CPU_MILLICORES_DEFAULT
    memory_bytes: int = MEMORY_BYTES_DEFAULT
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[ShippedFile, ...] = field(default=())
    priority_class: PriorityClass = PriorityClass.STANDARD
    time_limit_s: int = TIME_LIMIT_S_DEFAULT
    retries: int = 0
    depends_on: tuple[str, ...] = ()
    array: int | None = None
    topology: Topology = Topology.ANY
    hang_after_s: int | None = None
    cluster: str | None = None
    project: str | None = None


def check_wish(wish: NewJob) -> Refusal | None:
    """Return why the wish can be no job, or None."""
    checks = (
        _check_name(wish.name),
        _check_what_runs(wish),
        _check_env(wish.env),
        _check_files(wish.files),
        _check_numbers(wish),
    )
    return next((refusal for refusal in checks if refusal is not None), None)


def spec_of(wish: NewJob) -> tuple[JobSpec, tuple[ShippedFile, ...]]:
    """Return the spec that a checked ``wish`` means, and all files, its script among them."""
    command, files = wish.command, wish.files
    if wish.script is not None:
        has_interpreter = wish.script.startswith("#!")
        command = (f"./{SCRIPT_PATH}",) if has_interpreter else ("/bin/sh", SCRIPT_PATH)
        content = base64.b64encode(wish.script.encode()).decode()
        files = (*files, ShippedFile(SCRIPT_PATH, content, is_executable=True))
    spec = JobSpec(
        command=command,
        resources=Resources(wish.cpu_millicores, wish.memory_bytes, wish.devices),
        time_limit_s=wish.time_limit_s,
        nodes=wish.nodes,
        env=tuple(sorted(wish.env)),
        file_paths=tuple(file.path for file in files),
        priority_class=wish.priority_class,
        retries=wish.retries,
        depends_on=tuple(dict.fromkeys(wish.depends_on)),
        array=wish.array,
        topology=wish.topology,
        hang_after_s=wish.hang_after_s,
        cluster=wish.cluster,
    )
    return spec, files


def _check_name(name: str) -> Refusal | None:
    if is_dns_label(name) and prefix_of(name) is None:
        return None
    near = re.sub(r"[^a-z0-9]+", "-", name.lower())[:63].strip("-") or "my-job"
    return _invalid(
        "name",
        f"the name {_shown(name)} is not a DNS label: expected 1 to 63 of a-z, 0-9 and inner "
        f"hyphens, such as {near}",
    )


def _check_what_runs(wish: NewJob) -> Refusal | None:
    if bool(wish.command) == (wish.script is not None):
        has = "both command and script" if wish.command else "neither command nor script"
        return _invalid("command", f"the job has {has}: give exactly one of them")
    if wish.script is not None:
        return _check_script(wish.script)
    if not wish.command[0]:
        return _invalid("command", "the first word of command is empty: name what to run")
    if len(wish.command) > COMMAND_WORDS_MAX:
        return _invalid("command", f"command has more than {COMMAND_WORDS_MAX} words: use a script")
    for number, word in enumerate(wish.command):
        if "\0" in word:
            return _invalid(
                f"command.{number}", "a word of command holds a NUL character: none may"
            )
    if sum(map(len, wish.command)) > COMMAND_CHARS_MAX:
        return _invalid("command", f"command is longer than {COMMAND_CHARS_MAX}: use a script")
    return None


def _check_script(script: str) -> Refusal | None:
    if not script.strip():
        return _invalid("script", "script is empty: write what to run")
    if len(script) > SCRIPT_CHARS_MAX:
        msg = f"script is longer than {SCRIPT_CHARS_MAX} characters: ship it as a file instead"
        return _invalid("script", msg)
    if "\0" in script:
        line = script[: script.index("\0")].count("\n") + 1
        msg = f"line {line} of script holds a NUL character: a script is text, take it out"
        return _invalid("script", msg)
    if "\r" in script:
        line = script[: script.index("\r")].count("\n") + 1
        return _invalid(
            "script",
            f"line {line} of script holds a carriage return (CR), as Windows ends lines: a shell "
            "would take it for a part of the command; save the script with Unix line ends (LF)",
        )
    return None


def _check_env(env: Sequence[tuple[str, str]]) -> Refusal | None:
    if len(env) > ENV_MAX:
        return _invalid("environment", f"environment has {len(env)} names: at most {ENV_MAX}")
    for name, value in env:
        place = f"environment.{_shown(name, bare=True)}"
        if not _ENV_NAME.fullmatch(name) or len(name) > PATH_CHARS_MAX:
            near = re.sub(r"[^A-Za-z0-9_]", "_", name)[:60]
            near = near if _ENV_NAME.fullmatch(near) else f"_{near}"
            return _invalid(
                "environment",
                f"the name {_shown(name)} in environment cannot be used: expected letters, digits "
                f"and underscores, and no digit first, such as {near}",
            )
        prefix = next((p for p in _RESERVED_PREFIXES if name.upper().startswith(p)), None)
        if prefix is not None:
            return _invalid(
                place,
                f"names that begin with {prefix} belong to the cluster or to Tramontane, and "
                f"{_shown(name)} would change how the job is run: choose another, such as "
                f"MY_{name.upper()[:40]}",
            )
        if name.upper() in _RESERVED_NAMES:
            msg = f"{name} is set by the cluster, to the devices that the job gets: leave it out"
            return _invalid(place, msg)
        if "\0" in value:
            return _invalid(place, f"the value of {name} holds a NUL character: none may")
    if sum(len(name) + len(value) for name, value in env) > ENV_CHARS_MAX:
        msg = f"environment is longer than {ENV_CHARS_MAX} in all: ship a file instead"
        return _invalid("environment", msg)
    return None


def _check_files(files: Sequence[ShippedFile]) -> Refusal | None:
    if len(files) > FILES_MAX:
        msg = f"there are {len(files)} files: at most {FILES_MAX}; ship an archive instead"
        return _invalid("files", msg)
    total = 0
    for file in files:
        refusal = _check_path(file.path)
        if refusal is not None:
            return refusal
        try:
            total += len(base64.b64decode(file.content, validate=True))
        except (binascii.Error, ValueError):
            return _invalid("files", f"the content of {_shown(file.path)} is not base64")
    if total > FILES_BYTES_MAX:
        return _invalid(
            "files",
            f"the files have {total} bytes in all: at most {FILES_BYTES_MAX}; put what is larger "
            "on the cluster's shared folder and let the command read it there",
        )
    return _check_clashes([file.path for file in files])


def _check_path(path: str) -> Refusal | None:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        near = "/".join(part for part in parts if part not in {"", ".", ".."}) or "data.txt"
        return _invalid(
            "files",
            f"the path {_shown(path)} leads out of the job's working folder, and so out of the "
            f"project: expected a relative path without .., such as {_shown(near)}",
        )
    if not path or "" in parts or "." in parts or len(path) > PATH_CHARS_MAX or not _is_text(path):
        return _invalid(
            "files",
            f"the path {_shown(path)} cannot be used: expected 1 to {PATH_CHARS_MAX} printable "
            "characters, names with single slashes between them, such as data/input.txt",
        )
    if path == SCRIPT_PATH or path.startswith(f"{SCRIPT_PATH}/"):
        return _invalid("files", f"the path {SCRIPT_PATH} is the script's own: choose another")
    return None


def _check_clashes(paths: Iterable[str]) -> Refusal | None:
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            return _invalid("files", f"two files have the path {_shown(path)}: choose another")
        seen.add(path)
    for path in seen:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder in seen:
                msg = f"{_shown(folder)} is a file, and {_shown(path)} needs it to be a folder"
                return _invalid("files", f"{msg}: choose another path for one of them")
    return None


def _check_numbers(wish: NewJob) -> Refusal | None:
    bounds = (
        ("nodes", wish.nodes, 1, NODES_MAX),
        ("devices", wish.devices, 0, 1_024),
        ("cpu_millicores", wish.cpu_millicores, 1, 4_096_000),
        ("memory_bytes", wish.memory_bytes, 1, 1 << 50),
        ("time_limit_s", wish.time_limit_s, 1, TIME_LIMIT_S_MAX),
        ("retries", wish.retries, 0, RETRIES_MAX),
        ("array", wish.array, 1, ARRAY_MAX),
        ("hang_after_s", wish.hang_after_s, HANG_S_MIN, wish.time_limit_s),
        ("depends_on", len(wish.depends_on), 0, DEPENDS_ON_MAX),
    )
    for name, value, least, most in bounds:
        if value is not None and not least <= value <= most:
            near = min(max(value, least), most)
            return _invalid(name, f"{name} is {value}: expected {least} to {most}, such as {near}")
    return None


def _is_text(value: str) -> bool:
    return value.isprintable() and value.encode(errors="replace").decode() == value


def _shown(text: str, *, bare: bool = False) -> str:
    """Return ``text`` safe for a message: printable ASCII, short."""
    quoted = ascii(text if len(text) <= 80 else f"{text[:80]}...")
    return quoted[1:-1] if bare else quoted


def _invalid(param: str, message: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, message, param)
