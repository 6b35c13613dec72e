"""Frozen values as plain data (dicts, lists, texts, numbers) and back, strictly.

Reading refuses what writing would not make: a wrong type, a missing field, an unknown field. A
union of dataclasses is told apart by its first form that fits. Standard library only, because
the pure core reads snapshots with it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, cast

T = TypeVar("T")


class NotPlainError(ValueError):
    """A piece of plain data does not have the wanted form; the message says where and why."""


def to_plain(value: object) -> Any:
    """Return ``value`` as dicts, lists, texts, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return {key: to_plain(item) for key, item in pairs}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, frozenset):
        return sorted(to_plain(item) for item in cast("frozenset[object]", value))
    return value


def from_plain(form: type[T], data: Any, where: str = "$") -> T:
    """Return the value of type ``form`` in ``data``; `NotPlainError` names the place at fault."""
    return cast("T", _read(form, data, where))


def _read(form: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(form)
    if origin in {types.UnionType, typing.Union}:
        return _read_union(typing.get_args(form), data, where)
    if origin in {tuple, frozenset}:
        return _read_items(form, origin, data, where)
    if dataclasses.is_dataclass(form) and isinstance(form, type):
        return _read_fields(form, data, where)
    if isinstance(form, type) and issubclass(form, Enum):
        return _read_word(form, data, where)
    wanted = cast("type[Any]", type(None) if form is None else form)
    # `type is`, not isinstance: True is no amount of memory.
    if type(data) is not wanted:
        raise NotPlainError(f"{where} is {_shape(data)}; expected {_word(wanted)}")
    return data


def _read_union(forms: tuple[Any, ...], data: Any, where: str) -> Any:
    refusals: list[str] = []
    for form in forms:
        try:
            return _read(form, data, where)
        except NotPlainError as refusal:
            refusals.append(str(refusal))
    # The refusal that got deepest explains most: it is about a field, not about the whole.
    raise NotPlainError(max(refusals, key=len))


def _read_items(form: Any, origin: Any, data: Any, where: str) -> Any:
    if not isinstance(data, list):
        raise NotPlainError(f"{where} is {_shape(data)}; expected a list")
    items = cast("list[Any]", data)
    forms = typing.get_args(form)
    if origin is frozenset or forms[-1] is Ellipsis:
        read = [_read(forms[0], item, f"{where}[{i}]") for i, item in enumerate(items)]
        return tuple(read) if origin is tuple else frozenset(read)
    if len(items) != len(forms):
        raise NotPlainError(f"{where} has {len(items)} items; expected {len(forms)}")
    pairs = enumerate(zip(forms, items, strict=True))
    return tuple(_read(item_form, item, f"{where}[{i}]") for i, (item_form, item) in pairs)


def _read_fields(form: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise NotPlainError(f"{where} is {_shape(data)}; expected an object")
    given = cast("dict[str, Any]", data)
    fields = {f.name: f for f in dataclasses.fields(form)}
    for name in given:
        if name not in fields:
            raise NotPlainError(f"{where}.{name} is unknown; expected one of {', '.join(fields)}")
    hints = typing.get_type_hints(form)
    values: dict[str, Any] = {}
    for name in fields:
        if name not in given:
            raise NotPlainError(f"{where}.{name} is missing")
        values[name] = _read(hints[name], given[name], f"{where}.{name}")
    return form(**values)


def _read_word(form: type[Enum], data: Any, where: str) -> Any:
    words = [str(member.value) for member in form]
    if data not in words:
        raise NotPlainError(f"{where} is {_shape(data)}; expected one of {', '.join(words)}")
    return form(data)


def _shape(data: Any) -> str:
    if isinstance(data, str) and len(data) <= 40:
        return f"{data!r}"
    return f"a value of type {_word(cast('type[Any]', type(data)))}"


def _word(form: type[Any]) -> str:
    words = {dict: "object", list: "list", str: "text", int: "whole number", bool: "true or false"}
    return words.get(form, "null" if form is type(None) else form.__name__)
