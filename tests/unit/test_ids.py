"""Ids and names: what has their form, to the last character."""

import pytest

from tramontane.domain import ids


def test_an_id_says_what_it_names() -> None:
    made = ids.make_id(ids.REPLICA, bytes(range(13)))
    assert made == "rep_aaaqeayeaudaocajbifq"
    assert ids.prefix_of(made) == ids.REPLICA
    with pytest.raises(ValueError, match="13 bytes"):
        ids.make_id(ids.REPLICA, bytes(12))


@pytest.mark.parametrize(
    "text", ["", "rep_", "rep_AAAQEAYEAUDAOCAJBIFQ", "rep_aaaqeayeaudaocajbifq\n", "x", "rep_1"]
)
def test_what_is_no_id(text: str) -> None:
    assert ids.prefix_of(text) is None


@pytest.mark.parametrize("name", ["a", "a1", "my-chat-1", "0", "a" * 63])
def test_labels(name: str) -> None:
    assert ids.is_dns_label(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ä", "a\n", "a" * 64])
def test_what_is_no_label(name: str) -> None:
    assert not ids.is_dns_label(name)
