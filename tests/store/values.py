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

from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.fleet import Device
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.resources import Resources
from tramontane.domain.routing import RouteTable

# Surrogates cannot be encoded; everything else may come in a name, a path or a log line.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
integer = st.integers(-(2**63), 2**63 - 1)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of ``kind``: what dataclasses of the domain are made of, nothing else."""
    plain = {int: integer, str: text, bool: st.booleans(), type(None): st.none()}
    if kind in plain:
        return plain[kind]
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of([values_of(each) for each in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(each) for each in arguments))
    if origin is dict:
        return st.dictionaries(*(values_of(each) for each in arguments), max_size=3)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert dataclasses.is_dataclass(kind), f"no values known for {kind}"
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(kind)})


resources = values_of(Resources)
devices = values_of(tuple[Device, ...])
specs = values_of(DeploymentSpec)
launches = values_of(LaunchSpec)
route_tables = values_of(RouteTable)
event_data = values_of(dict[str, str | int | None])
