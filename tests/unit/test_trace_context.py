"""Trace context by the W3C Recommendation: what is valid goes on, all else is dropped."""

import pytest

from tramontane.gateway.telemetry.trace_context import read

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


def lines(*headers: tuple[bytes, bytes]) -> bytes | None:
    found = read(headers)
    return None if found is None else found.header_lines()


def test_a_valid_parent_goes_on_as_it_is() -> None:
    assert lines((b"traceparent", GOOD)) == b"traceparent: " + GOOD + b"\r\n"
    found = read([(b"traceparent", GOOD)])
    assert found is not None
    assert found.is_sampled
    not_sampled = read([(b"traceparent", GOOD[:-2] + b"00")])
    assert not_sampled is not None
    assert not not_sampled.is_sampled


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"garbage",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        GOOD + b"-more",
        GOOD + b"\n",
        GOOD + b"\r\nx-evil: 1",
        GOOD[:-1],
        GOOD + b"0",
        b" " + GOOD,
        b"00-" + TRACE[:-1] + b"g-" + SPAN + b"-01",
        b"0-" + TRACE + b"-" + SPAN + b"-01",
    ],
)
def test_a_parent_that_is_not_valid_is_dropped_with_its_state(parent: bytes) -> None:
    assert lines((b"traceparent", parent), (b"tracestate", b"a=1")) is None


def test_two_parents_or_none_are_no_parent() -> None:
    assert lines((b"traceparent", GOOD), (b"traceparent", GOOD)) is None
    assert lines((b"tracestate", b"a=1")) is None


def test_a_later_version_goes_on_as_version_00() -> None:
    later = b"cc-" + TRACE + b"-" + SPAN + b"-ff-what-comes-next"
    assert lines((b"traceparent", later)) == b"traceparent: " + GOOD + b"\r\n"


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ((b"a=1",), b"a=1"),
        ((b"a=1, b=2",), b"a=1,b=2"),
        ((b"a=1", b"b=2"), b"a=1,b=2"),
        ((b"a=1,,\t,b=2",), b"a=1,b=2"),
        (
            (b"fw529a3039@dt=FfAwAAUA, vendor/x*-_=!~ x",),
            b"fw529a3039@dt=FfAwAAUA,vendor/x*-_=!~ x",
        ),
        ((b"a=1,a=2",), b""),
        ((b"A=1",), b""),
        ((b"a",), b""),
        ((b"a=b=c",), b""),
        ((b"a=\x7f",), b""),
        ((b"a=1\r\nx: y",), b""),
        ((b",".join(b"k%d=v" % number for number in range(33)),), b""),
        ((b"a=" + b"x" * 257,), b""),
        (tuple(b"k%d=" % number + b"v" * 250 for number in range(9)), b""),
    ],
)
def test_a_state_is_checked_by_itself(states: tuple[bytes, ...], told: bytes) -> None:
    headers = [(b"traceparent", GOOD), *((b"tracestate", state) for state in states)]
    expected = (
        b"traceparent: " + GOOD + b"\r\n" + (b"tracestate: " + told + b"\r\n" if told else b"")
    )
    assert lines(*headers) == expected
