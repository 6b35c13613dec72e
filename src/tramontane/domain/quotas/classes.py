"""Which priority classes may be asked for.

The quota of an organization names them. Where it names none, `reserved` needs another word of an
operator: a rack that is reserved for the organization. A project may ask for what its organization
may, or for less.
"""

from collections.abc import Collection
from typing import Final

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.quota import Quota
from tramontane.domain.refusal import Code, Refusal

Classes = tuple[PriorityClass, ...]  # the highest first

UNNAMED: Final = (PriorityClass.STANDARD, PriorityClass.SPOT)


def ordered(named: Collection[PriorityClass]) -> Classes:
    """Return the classes, each once, the highest first."""
    return tuple(each for each in PriorityClass if each in named)


def of_organization(quota: Quota | None, *, has_rack: bool) -> Classes:
    """Return what an organization may ask for; ``has_rack``: one is reserved for it somewhere."""
    if quota is not None and quota.priority_classes is not None:
        return quota.priority_classes
    return ordered(PriorityClass) if has_rack else UNNAMED


def of_project(organization: Classes, quota: Quota | None) -> Classes:
    """Return what a project may ask for, of what its organization may; perhaps nothing."""
    if quota is None or quota.priority_classes is None:
        return organization
    return tuple(each for each in organization if each in quota.priority_classes)


def nearest(asked: PriorityClass, allowed: Classes) -> PriorityClass | None:
    """Return ``asked``, or the next one that gives way sooner, or else the next higher."""
    rank = tuple(PriorityClass).index
    lower = [each for each in allowed if rank(each) >= rank(asked)]
    return lower[0] if lower else allowed[-1] if allowed else None


def check_class(asked: PriorityClass, allowed: Classes, what: str) -> Refusal | None:
    """Return why ``what``, such as "job", may not ask for the class, or None."""
    if asked in allowed:
        return None
    near = nearest(asked, allowed)
    message = (
        f"the {what} asks for the class {asked}, and its project may ask for {listed(allowed)}: "
        f"{f'ask for {near}' if near else 'nothing of it can start'}, or ask an operator for a "
        f"quota that names {asked}"
    )
    return Refusal(Code.DOES_NOT_FIT, message, "priority_class")


def listed(classes: Classes) -> str:
    """Return the classes in words."""
    return " and ".join(classes) or "no class"
