"""Short lists of nodes, as Slurm writes them, are read back; anything else is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.drivers.slurm.dialects.hostlist import NODES_MAX, expand

NAMES = st.text(st.sampled_from("abcxyz-"), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("login", ("login",)),
        ("r1n[1-2],r2n1", ("r1n1", "r1n2", "r2n1")),
        ("n[008-011,3]", ("n008", "n009", "n010", "n011", "n3")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
        ("n[1-2]-ib,x", ("n1-ib", "n2-ib", "x")),
        ("a,,b", ("a", "b")),
    ],
)
def test_lists_are_expanded(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


@given(st.lists(st.tuples(NAMES, st.integers(0, 9_990), st.integers(0, 9), st.integers(1, 5))))
def test_what_is_folded_is_found_again(runs: list[tuple[str, int, int, int]]) -> None:
    folded: list[str] = []
    names: list[str] = []
    for prefix, first, more, width in runs:
        low, high = f"{first:0{width}d}", f"{first + more:0{width}d}"
        folded.append(f"{prefix}[{low}-{high}]" if more else f"{prefix}[{low}]")
        names += [f"{prefix}{number:0{width}d}" for number in range(first, first + more + 1)]
    assert expand(",".join(folded)) == tuple(names)


@pytest.mark.parametrize(
    "text", ["n[1-", "n1]", "n[[1]]", "n[a-b]", "n[2-1]", "n[]", "n[1-999999999]", "n[-1]"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|brackets|nodes"):
        expand(text)


@given(st.text(st.sampled_from("ab12[]-,0"), max_size=30))
def test_no_text_makes_it_run_away(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(expand(text)) <= NODES_MAX
