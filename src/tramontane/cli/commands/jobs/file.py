"""Job files: YAML for people, turned into what the API takes.

The API decides what a job may be; this module only reads: durations, sizes and the files to ship.
Each complaint names the file and, where it can, the line.
"""

import base64
import difflib
import os
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tramontane.cli.exits import CommandError, ExitCode

FILE_BYTES_MAX: Final = 2 << 20  # a job file holds no data
SHIPPED_BYTES_MAX: Final = 1 << 20  # of all files together: the API's limit

EXAMPLE: Final = """\
# A job for `tramontane jobs submit`. Only name, and one of command and script, are needed.
name: train-small                 # a DNS label; need not be unique

# What runs, once on each node. A script, or `command: [torchrun, train.py]`, word by word.
script: |
  echo "node $NODE_RANK of $NNODES, attempt $TRAMONTANE_ATTEMPT_NUMBER"
  # torchrun finds the others by itself: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR ... are set.
  # torchrun train.py --checkpoints "$TRAMONTANE_CHECKPOINT_DIR"

# What each node gives it.
nodes: 1
devices: 0                        # accelerators
cpus: 1
memory: 1GiB

time_limit: 1h                    # an attempt is ended after that: 90s, 5m, 2h, 1d
retries: 1                        # further attempts after a failure
# hang_after: 10m                 # end it when it neither writes nor touches its heartbeat file

# priority_class: standard        # reserved, standard or spot (cheap, and gives way)
# topology: any                   # rack: all nodes in one rack; spread: over racks
# cluster: alps                   # the only cluster to use

# depends_on: [prepare]           # ids or names of jobs that must have succeeded
# array: 10                       # run ten times, told apart by $TRAMONTANE_ARRAY_INDEX

# environment:
#   LEARNING_RATE: "0.001"

# Small files to lay into the working folder: where: which, seen from this file. 1 MiB in all.
# files:
#   train.py: src/train.py
"""

_TEXT: Final = "tag:yaml.org,2002:str"
_Reader = Callable[[str, Any], object]


def read(path: Path) -> dict[str, object]:
    """Return the body of the request that the job file at ``path`` means. Raises `CommandError`."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise _wrong(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB: is it a job file?")
        text = path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {(error.strerror or str(error)).lower()}"
        raise _wrong(msg) from error
    data, lines = _parse(path, text)
    body: dict[str, object] = {}
    for key, value in data.items():
        where = f"{path}, line {lines[key]}: {key}"
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _wrong(f"{path}, line {lines[key]}: {key!a} is not known in a job file{hint}")
        if value is None:
            continue
        name, reader = _FIELDS[key]
        if name in body:
            raise _wrong(f"{where} says again what another line says: leave one of them out")
        body[name] = reader(where, value) if key != "files" else _files(where, value, path.parent)
    return body


def seconds(where: str, value: Any) -> int:
    """Return a duration such as 90, 90s, 5m, 1h30m or 2d in seconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    units = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    match = re.fullmatch(r"(\d+d)?(\d+h)?(\d+m)?(\d+s?)?", str(value).strip().lower())
    if not isinstance(value, str) or match is None or not value.strip():
        raise _wrong(f"{where} must be a duration such as 90s, 5m, 1h30m or 2d")
    parts = [part for part in match.groups() if part]
    return sum(int(part.rstrip("dhms")) * units.get(part[-1], 1) for part in parts)


def size_bytes(where: str, value: Any) -> int:
    """Return a size such as 16GiB, 512M or 4096 in bytes; G alone is GiB, as Slurm has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(ib|b)?", str(value).strip().lower())
    if not isinstance(value, str) or match is None:
        raise _wrong(f"{where} must be a size such as 16GiB, 512MiB or 4096")
    number, unit, kind = match.groups()
    base = 1_000 if kind == "b" and unit else 1_024
    return int(float(number) * base ** " kmgt".index(unit or " "))


def _parse(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what the file holds, and the line of each key."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise _wrong(
                f"{path} must hold lines such as `name: my-job`: `tramontane jobs example`"
            )
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key_node.tag != _TEXT:  # 0x10 is read as 16, and << as a command
                raise _wrong(f"{path}, line {line}: {key!a} is not known in a job file")
            if key in lines:
                raise _wrong(f"{path}, line {line}: {key!a} stands on line {lines[key]} already")
            lines[key] = line
        data: Mapping[Hashable, Any] = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise _wrong(f"{path}{line} is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise _wrong(f"{path} is not YAML: {reason}") from error
    except (RecursionError, ValueError) as error:
        raise _wrong(f"{path} is not YAML that a job needs: {error}") from error
    return {str(key): value for key, value in data.items()}, lines


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(f"{where} must be a text; put it in quotes")
    return value


def _number(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(f"{where} must be a whole number")
    return value


def _millicores(where: str, value: Any) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(f"{where} must be a number of CPU cores, such as 4 or 0.5")
    return round(value * 1_000)


def _words(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise _wrong(f"{where} must be a list of words such as [python3, train.py]; or use script")
    return [_word(f"{where}[{i}]", word) for i, word in enumerate(value)]


def _word(where: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(where, value)


def _references(where: str, value: Any) -> list[str]:
    return [_text(where, it) for it in (value if isinstance(value, list) else [value])]


def _environment(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong(f"{where} must hold lines such as `LEARNING_RATE: '0.001'`")
    return {str(name): _word(f"{where}.{name}", text) for name, text in value.items()}


def _files(where: str, value: Any, folder: Path) -> list[dict[str, object]]:
    if not isinstance(value, dict):
        raise _wrong(f"{where} must hold lines such as `train.py: src/train.py`")
    shipped: list[dict[str, object]] = []
    total = 0
    for target, source in value.items():
        path = folder / _text(f"{where}.{target}", source)
        try:
            content = path.read_bytes() if path.stat().st_size <= SHIPPED_BYTES_MAX else None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise _wrong(f"{where}: cannot read {path}: {reason}") from error
        total += SHIPPED_BYTES_MAX + 1 if content is None else len(content)
        if content is None or total > SHIPPED_BYTES_MAX:
            raise _wrong(
                f"{where}: with {path} the files have more than {SHIPPED_BYTES_MAX >> 20} MiB; put "
                "what is large on the cluster's shared folder"
            )
        shipped.append(
            {
                "path": str(target),
                "content": base64.b64encode(content).decode(),
                "is_executable": os.access(path, os.X_OK),
            }
        )
    return shipped


def _wrong(message: str) -> CommandError:
    return CommandError(message, ExitCode.USAGE)


# Each key of a job file: the field of the API that it fills, and how it is read.
_FIELDS: Final[dict[str, tuple[str, _Reader]]] = {
    "name": ("name", _text),
    "command": ("command", _words),
    "script": ("script", _text),
    "nodes": ("nodes", _number),
    "devices": ("devices", _number),
    "cpus": ("cpu_millicores", _millicores),
    "cpu_millicores": ("cpu_millicores", _number),
    "memory": ("memory_bytes", size_bytes),
    "memory_bytes": ("memory_bytes", _number),
    "environment": ("environment", _environment),
    "files": ("files", lambda _where, value: value),
    "priority_class": ("priority_class", _text),
    "time_limit": ("time_limit_s", seconds),
    "time_limit_s": ("time_limit_s", _number),
    "retries": ("retries", _number),
    "depends_on": ("depends_on", _references),
    "array": ("array", _number),
    "topology": ("topology", _text),
    "hang_after": ("hang_after_s", seconds),
    "hang_after_s": ("hang_after_s", _number),
    "cluster": ("cluster", _text),
    "project": ("project", _text),
}
