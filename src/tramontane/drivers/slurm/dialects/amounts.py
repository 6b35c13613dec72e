"""Amounts as Slurm writes them: ``cpu=4,mem=400M,gres/gpu=2`` and ``gpu:gb200:4(S:0-1)``."""

import re
from typing import Final

_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")
_MEMORY_MB: Final = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
_PARENTHESES: Final = re.compile(r"\([^()]*\)")


def tres_amounts(text: str) -> tuple[int, int, int]:
    """Return processors, mebibytes and GPUs of a TRES string; what it does not name is 0."""
    amounts = dict.fromkeys(("cpu", "mem", "gres/gpu"), 0)
    typed_gpus = 0
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name == "mem":
            amounts["mem"] = memory_mb(value)
        elif name in amounts and value.isdigit():
            amounts[name] = int(value)
        elif name.startswith("gres/gpu:") and value.isdigit():
            typed_gpus += int(value)
    return amounts["cpu"], amounts["mem"], amounts["gres/gpu"] or typed_gpus


def memory_mb(text: str) -> int:
    """Return the mebibytes of ``4000M`` or ``1.5T``, rounded up; 0 for anything else."""
    found = _MEMORY.fullmatch(text)
    if not found:
        return 0
    amount = float(found[1]) * _MEMORY_MB[found[2]]
    return int(amount) + (amount != int(amount))


def gpu_counts(text: str) -> tuple[tuple[str, int], ...]:
    """Return GPUs by type of a GRES string, in its order; other resources are left out."""
    counts: dict[str, int] = {}
    for part in _PARENTHESES.sub("", text).split(","):
        name, *rest = part.strip().split(":")
        if name != "gpu" or not rest:
            continue
        kind, count = (rest[0], rest[1]) if len(rest) > 1 else ("", rest[0])
        if count.isdigit():
            counts[kind] = counts.get(kind, 0) + int(count)
    return tuple((kind, count) for kind, count in counts.items() if count)
