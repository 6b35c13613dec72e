"""Tables fit the terminal; text is one line and harmless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.cli.output import moment, one_line, printable, size, table, text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        ({}, "-"),
        (0, "0"),
        (False, "no"),
        ("a\n b", "a b"),
        (["a", 1], "a, 1"),
        ({"a": None, "b": [2]}, "a=-, b=2"),
    ],
)
def test_text(value: object, shown: str) -> None:
    assert text(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 10, "1.0 KiB"),
        (5 << 19, "2.5 MiB"),
        ("x", "x"),
        (None, "-"),
    ],
)
def test_size(value: object, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "1970-01-01 00:00:00Z"), (None, "-"), ("soon", "soon"), (10**30, str(10**30))],
)
def test_moment(value: object, shown: str) -> None:
    assert moment(value) == shown


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("çа世🙂\n\t\u00a0x") == "çа世🙂\n\t\u00a0x"
    assert printable("\x1b[31m\r\x00\u202e\ud800") == "?[31m????"


@given(st.text())
def test_one_line_is_one_printable_line(value: str) -> None:
    line = one_line(value)
    assert "\n" not in line
    assert all(c.isprintable() or c in "?\u200d" for c in line)


@given(
    st.lists(st.lists(st.text("ab", min_size=1, max_size=40), min_size=4, max_size=4), min_size=1),
    st.integers(20, 200),
)
def test_a_table_fits_unless_its_columns_would_vanish(rows: list[list[str]], width: int) -> None:
    lines = list(table(rows, width))
    assert len(lines) == len(rows)
    assert max(map(len, lines)) <= max(width, 4 * 8 + 3 * 2)
    whole = list(table(rows, None))
    if max(map(len, whole)) <= width:
        assert lines == whole


def test_the_widest_column_is_cut_first() -> None:
    rows = [["id", "reason"], ["dep_1", "no node has room for it"]]
    assert list(table(rows, 20)) == ["id     reason", "dep_1  no node ha..."]
