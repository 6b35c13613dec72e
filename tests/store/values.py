"""Hypothesis strategies for the nested values that are stored as JSON texts.

They are derived from the types of the fields, so that a new field is tested the day it is added
and not with its default alone.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from tramontane.domain.deployment import Canary, DeploymentSpec, Scale
from tramontane.domain.fleet import Device
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.resources import Resources
from tramontane.domain.routing import RouteTable

# Surrogates cannot be encoded; everything else may come in a name, a path or a log line.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
integer = st.integers(-(2**63), 2**63 - 1)


def values_of(kind: Any, inside: frozenset[Any] = frozenset()) -> st.SearchStrategy[Any]:
    """Return values of ``kind``: what dataclasses of the domain are made of, nothing else.

    A dataclass that may hold one of its own kind holds at most one level of it.
    """
    plain = {int: integer, str: text, bool: st.booleans(), type(None): st.none()}
    if kind in plain:
        return plain[kind]
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of([values_of(each, inside) for each in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0], inside), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(each, inside) for each in arguments))
    if origin is dict:
        return st.dictionaries(*(values_of(each, inside) for each in arguments), max_size=3)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert dataclasses.is_dataclass(kind), f"no values known for {kind}"
    if (kind, kind) in inside:
        return st.nothing()
    inside |= {(kind, kind)} if kind in inside else {kind}
    hints = {f.name: typing.get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    return st.builds(kind, **{name: values_of(hint, inside) for name, hint in hints.items()})


resources = values_of(Resources)
devices = values_of(tuple[Device, ...])
specs = values_of(DeploymentSpec)
scales = values_of(Scale)
canaries = values_of(Canary)
launches = values_of(LaunchSpec)
route_tables = values_of(RouteTable)
event_data = values_of(dict[str, str | int | None])
