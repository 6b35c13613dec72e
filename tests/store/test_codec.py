import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from tests.store import samples, values
from tramontane.store import codec
from tramontane.store.errors import UnreadableValueError

TABLE = samples.route_table(samples.route(1))


@given(values.specs)
def test_specs_round_trip(spec):
    assert codec.decode_spec(codec.encode_spec(spec)) == spec


@given(values.scales)
def test_scales_round_trip(scale):
    assert codec.decode_scale(codec.encode_scale(scale)) == scale


@given(values.canaries)
def test_canaries_round_trip(canary):
    assert codec.decode_canary(codec.encode_canary(canary)) == canary


@given(values.launches)
def test_launches_round_trip(launch):
    assert codec.decode_launch(codec.encode_launch(launch)) == launch


@given(values.resources)
def test_resources_round_trip(resources):
    assert codec.decode_resources(codec.encode_resources(resources)) == resources


@given(values.devices)
def test_devices_round_trip(devices):
    assert codec.decode_devices(codec.encode_devices(devices)) == devices


@given(values.route_tables)
def test_route_tables_round_trip(table):
    assert codec.decode_route_table(codec.encode_route_table(table)) == table


@given(values.event_data)
def test_event_data_round_trips(data):
    decoded = codec.decode_event_data(codec.encode_event_data(data))
    assert decoded == data
    assert [type(value) for value in decoded.values()] == [type(v) for v in data.values()]


@given(values.route_tables)
def test_equal_route_tables_have_equal_texts(table):
    turned = dataclasses.replace(table, keys=dict(reversed(table.keys.items())))
    assert codec.encode_route_table(turned) == codec.encode_route_table(table)


def _changed(text: str, change: Callable[[Any], object]) -> str:
    stored = json.loads(text)
    change(stored)
    return json.dumps(stored)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("engine"), "missing required field `engine`"),
        (lambda s: s.update(replicas="2"), r"Expected `int`, got `str` - at `\$.replicas`"),
        (lambda s: s.update(replicas=2.5), "Expected `int`, got `float`"),
        (lambda s: s.update(engine=None), "Expected `str`, got `null`"),
        (lambda s: s.update(engine_options=[["a"]]), "length 2"),
        (lambda s: s.update(surprise=1), r"unknown field \$.surprise: was it written by a newer"),
    ],
)
def test_a_spec_of_another_form_is_refused(change, told):
    with pytest.raises(UnreadableValueError, match=told):
        codec.decode_spec(_changed(codec.encode_spec(samples.spec()), change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["routes"][0]["replicas"][0].update(zone="x"), r"\$.routes\[0\].replicas"),
        (lambda t: t["keys"]["00" * 32].update(role="owner"), "Invalid enum value 'owner'"),
    ],
)
def test_a_route_table_of_another_form_is_refused_wherever_it_differs(change, told):
    with pytest.raises(UnreadableValueError, match=told):
        codec.decode_route_table(_changed(codec.encode_route_table(TABLE), change))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '{"a": {"b": 1}}', '{"a": 1.5}'])
def test_event_data_of_another_form_is_refused(text):
    with pytest.raises(UnreadableValueError, match="cannot be read"):
        codec.decode_event_data(text)
