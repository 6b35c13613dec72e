"""Nested domain values as JSON texts, and back, strictly.

Reading refuses what this version would not write: a wrong type, a missing field, an unknown
field (which a newer version may have added, and which writing the row back would lose).
"""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import msgspec

from tramontane.domain.catalog import UNKNOWN, Capabilities
from tramontane.domain.deployment import Canary, DeploymentSpec, Scale
from tramontane.domain.event import EventData
from tramontane.domain.fleet import Device
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.resources import Resources
from tramontane.domain.routing import RouteTable
from tramontane.domain.spending.slices import Reply
from tramontane.store.errors import UnreadableValueError

T = TypeVar("T")


def encode_spec(spec: DeploymentSpec) -> str:
    """Return the text of a deployment's spec."""
    return encode(spec)


def decode_spec(text: str) -> DeploymentSpec:
    """Return the spec in ``text``; `UnreadableValueError` if it is not one."""
    return decode(text, DeploymentSpec)


def encode_capabilities(capabilities: Capabilities) -> str | None:
    """Return the text of what a model can do; None when nothing is known."""
    return None if capabilities == UNKNOWN else encode(capabilities)


def decode_capabilities(text: str | None) -> Capabilities:
    """Return the capabilities in ``text``; `UnreadableValueError` if they are none."""
    return UNKNOWN if text is None else decode(text, Capabilities)


def encode_scale(scale: Scale) -> str:
    """Return the text of what autoscaling decided."""
    return encode(scale)


def decode_scale(text: str) -> Scale:
    """Return the scale in ``text``; `UnreadableValueError` if it is not one."""
    return decode(text, Scale)


def encode_canary(canary: Canary) -> str:
    """Return the text of a deployment's link to what it is a canary of."""
    return encode(canary)


def decode_canary(text: str) -> Canary:
    """Return the canary in ``text``; `UnreadableValueError` if it is not one."""
    return decode(text, Canary)


def encode_launch(launch: LaunchSpec) -> str:
    """Return the text of a replica's launch; it holds secrets, like the row it goes to."""
    return encode(launch)


def decode_launch(text: str) -> LaunchSpec:
    """Return the launch in ``text``; `UnreadableValueError` if it is not one."""
    return decode(text, LaunchSpec)


def encode_resources(resources: Resources) -> str:
    """Return the text of a node's capacity."""
    return encode(resources)


def decode_resources(text: str) -> Resources:
    """Return the amounts in ``text``; `UnreadableValueError` if they are none."""
    return decode(text, Resources)


def encode_devices(devices: tuple[Device, ...]) -> str:
    """Return the text of a node's devices."""
    return encode(devices)


def decode_devices(text: str) -> tuple[Device, ...]:
    """Return the devices in ``text``; `UnreadableValueError` if they are none."""
    return decode(text, tuple[Device, ...])


def encode_route_table(table: RouteTable) -> str:
    """Return the text of a route table, the same for equal tables whatever the order of keys."""
    ordered = RouteTable(
        revision=table.revision,
        hmac_key=table.hmac_key,
        keys=dict(sorted(table.keys.items())),
        routes=table.routes,
        probe_deployment_id=table.probe_deployment_id,
        limits=dict(sorted(table.limits.items())),
    )
    return encode(ordered)


def decode_route_table(text: str) -> RouteTable:
    """Return the route table in ``text``; `UnreadableValueError` if it is not one."""
    return decode(text, RouteTable)


def encode_names(names: tuple[str, ...] | None) -> str | None:
    """Return the text of a list of names; None stays None."""
    return None if names is None else encode(names)


def decode_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names in ``text``; `UnreadableValueError` if they are none."""
    return None if text is None else decode(text, tuple[str, ...])


def encode_slices(reply: Reply) -> str:
    """Return the text of the reply to a gateway that asked for slices."""
    return encode(reply)


def decode_slices(text: str) -> Reply:
    """Return the reply in ``text``; `UnreadableValueError` if it is none."""
    return decode(text, Reply)


def encode_event_data(data: EventData) -> str:
    """Return the text of an event's data."""
    return encode(dict(data))


def decode_event_data(text: str) -> EventData:
    """Return the event data in ``text``; `UnreadableValueError` if it is none."""
    return decode(text, dict[str, str | int | None])


def encode(value: object) -> str:
    """Return the text of any frozen value."""
    return msgspec.json.encode(value).decode()


def decode(text: str, form: type[T]) -> T:
    """Return the value of type ``form`` in ``text``; `UnreadableValueError` if it is none."""
    name = getattr(form, "__name__", str(form))
    try:
        value = msgspec.json.decode(text, type=form, strict=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UnreadableValueError(f"a stored {name} cannot be read: {error}") from error
    unknown = _first_unknown(msgspec.json.decode(text), msgspec.to_builtins(value), "$")
    if unknown is not None:
        msg = f"a stored {name} has the unknown field {unknown}: was it written by a newer version?"
        raise UnreadableValueError(msg)
    return value


def _first_unknown(stored: Any, understood: Any, path: str) -> str | None:
    """Return the path of a field of ``stored`` that reading dropped, or None."""
    if isinstance(stored, dict):
        for key, value in cast("dict[str, Any]", stored).items():
            if key not in understood:
                return f"{path}.{key}"
            unknown = _first_unknown(value, understood[key], f"{path}.{key}")
            if unknown is not None:
                return unknown
    elif isinstance(stored, list):
        pairs = zip(cast("list[Any]", stored), cast("Sequence[Any]", understood), strict=True)
        for index, (value, kept) in enumerate(pairs):
            unknown = _first_unknown(value, kept, f"{path}[{index}]")
            if unknown is not None:
                return unknown
    return None
