"""Where a simulated control plane can be cut: before and after each write and each driver call.

The cuts are around the product, never in it: a database and a driver that call ``at`` with the
name of the point. `Crash` is no `Exception`, so that nothing in the product can survive it.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import ClusterView
from tramontane.drivers.fake import FakeDriver
from tramontane.store.db import Database, Transaction

T = TypeVar("T")
At = Callable[[str], None]


class Crash(BaseException):
    """The process of the control plane ends here."""


class CutDatabase(Database):
    """The real store, with cuts."""

    def __init__(self, url: str, at: At) -> None:
        super().__init__(url)
        self._at = at
        self.writes = 0

    @contextmanager
    def read(self) -> Generator[Transaction]:
        self._at("before read")
        with super().read() as tx:
            yield tx

    def write(self, fn: Callable[[Transaction], T]) -> T:
        self._at("before write")
        result = super().write(fn)
        self.writes += 1
        self._at("after write")
        return result


class CutDriver:
    """A fake driver, with cuts, and with someone who looks at each call."""

    def __init__(self, inner: FakeDriver, at: At, watch: Callable[[str, str], None]) -> None:
        self.inner = inner
        self.name = inner.name
        self._at = at
        self._watch = watch

    def view(self) -> ClusterView:
        self._at("before view")
        return self.inner.view()

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        self._at("before ensure")
        self._watch("ensure", replica_id)
        self.inner.ensure(replica_id, node_name, launch, peers)
        self._at("after ensure")

    def stop(self, replica_id: str, *, drain: bool = True) -> None:
        self._at("before stop")
        self._watch("stop", replica_id)
        self.inner.stop(replica_id, drain=drain)
        self._at("after stop")

    def forget(self, replica_id: str) -> None:
        self._at("before forget")
        self.inner.forget(replica_id)

    def logs(self, replica_id: str, lines_max: int) -> list[str]:
        return self.inner.logs(replica_id, lines_max)
