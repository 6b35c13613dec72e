"""Slurm's short form of node names: ``r1n[1-2,8],login`` (hostlist, scontrol(1)).

A name may hold several brackets; numbers keep the zeros they are written with.
"""

from typing import Final

NODES_MAX: Final = 100_000  # more nodes than any cluster has: `n[1-999999999]` is not expanded


def expand(text: str) -> tuple[str, ...]:
    """Return the names in their order. Raises ValueError for what is no hostlist."""
    names: list[str] = []
    for part in _split(text):
        names += _expand_part(part)
        if len(names) > NODES_MAX:
            msg = f"a list of more than {NODES_MAX} nodes"
            raise ValueError(msg)
    return tuple(names)


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts, depth, begin = [], 0, 0
    for place, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in {0, 1}:
            break
        if char == "," and not depth:
            parts.append(text[begin:place])
            begin = place + 1
    if depth:
        msg = f"unbalanced brackets in {text[:80]!r}"
        raise ValueError(msg)
    return [part for part in (*parts, text[begin:]) if part]


def _expand_part(part: str) -> list[str]:
    head, opening, rest = part.partition("[")
    if not opening:
        return [part]
    ranges, _, tail = rest.partition("]")
    tails = _expand_part(tail) if tail else [""]
    numbers = [number for item in ranges.split(",") for number in _expand_range(item)]
    if len(numbers) * len(tails) > NODES_MAX:
        msg = f"a list of more than {NODES_MAX} nodes"
        raise ValueError(msg)
    return [f"{head}{number}{end}" for number in numbers for end in tails]


def _expand_range(item: str) -> list[str]:
    low, dash, high = item.partition("-")
    high = high if dash else low
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        msg = f"{item[:80]!r} is not a range of numbers"
        raise ValueError(msg)
    if not 0 <= int(high) - int(low) < NODES_MAX:
        msg = f"{item[:80]!r} is not a range of at most {NODES_MAX} numbers"
        raise ValueError(msg)
    return [f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)]
