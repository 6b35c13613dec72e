"""Calls that the kernel may hold for hours, such as on a network file system whose server is away.

A thread in such a call cannot be ended. So it is a thread of its own, nobody waits long for it, and
there are only a few.
"""

import errno
import threading
from collections.abc import Callable
from typing import Final, TypeVar

LATE_MAX: Final = 4
Got = TypeVar("Got")


class InTime:
    """Makes calls that take at most ``limit_s``; for any number of threads.

    While `LATE_MAX` calls hang, no other is begun. ``what`` is named in errors.
    """

    def __init__(self, what: str, limit_s: float) -> None:
        self._error = TimeoutError(errno.ETIMEDOUT, f"{what} does not answer")
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._late = 0

    def run(self, call: Callable[[], Got]) -> Got:
        """Return what ``call`` returns, or raise what it raises; TimeoutError if that takes long.

        It is not undone then, and may still be carried out.
        """
        with self._lock:
            if self._late >= LATE_MAX:
                raise TimeoutError(*self._error.args)
        got: list[Got] = []
        failed: list[BaseException] = []
        is_late = is_over = False

        def make() -> None:
            nonlocal is_over
            try:
                got.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again by whoever asked
                failed.append(error)
            with self._lock:
                is_over = True
                self._late -= is_late

        # A daemon: what hangs must not keep the process from ending.
        thread = threading.Thread(target=make, name="in-time", daemon=True)
        thread.start()
        thread.join(self._limit_s)
        with self._lock:
            if not is_over:
                is_late = True
                self._late += 1
                raise TimeoutError(*self._error.args)
        if failed:
            raise failed[0]
        return got[0]
