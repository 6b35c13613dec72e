"""A process that ends right after its n-th call: what it did stands, and nobody heard the reply."""

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """What the process that ends raises; nothing that it runs catches it."""


class Cut:
    """The end of a process, right after the n-th of the calls that it is laid around."""

    def __init__(self, number: int) -> None:
        self._left = number

    @property
    def has_come(self) -> bool:
        """Tell whether there were so many calls."""
        return self._left <= 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, counted; the n-th is made and then raises `Killed`."""

        def counted(*given: Any) -> Any:
            done = call(*given)
            self._left -= 1
            if self._left == 0:
                raise Killed
            return done

        return counted
