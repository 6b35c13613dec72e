"""Request ids: ``req_`` and twenty characters of base32, unique in the world and cheap."""

import itertools
from collections.abc import Callable
from typing import Final

from tramontane.domain import ids

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS: Final = tuple(a + b for a, b in itertools.product(_ALPHABET, repeat=2))
_PER_PREFIX: Final = len(_PAIRS) ** 2


class RequestIds:
    """Sixteen random characters that are drawn anew every million ids, and four that count."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        """``entropy`` returns as many random bytes as it is asked for."""
        self._entropy = entropy
        self._prefix = ""
        self._count = _PER_PREFIX

    def next(self) -> str:
        """Return a fresh id."""
        count = self._count
        if count == _PER_PREFIX:
            self._prefix = ids.make_id(ids.REQUEST, self._entropy(ids.ENTROPY_BYTES))[:-4]
            count = 0
        self._count = count + 1
        return self._prefix + _PAIRS[count >> 10] + _PAIRS[count & 1023]
