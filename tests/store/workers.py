"""What other processes do to a database while a test looks on.

They are forked from a server process that has imported this module, so that six of them cost one
import, and none inherits a connection or a thread of the test.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tests.store import samples
from tests.store.samples import PROJECT
from tramontane.store import events, leases, tenancy, usage
from tramontane.store.db import Database, Limits, StoreUnavailableError, Transaction

LIMIT_S = 60
# The machine may be busy with other things; what is tested is that nothing is lost.
PATIENT = Limits(busy_timeout_ms=20_000, write_give_up_ms=40_000)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.store.workers"])


@contextmanager
def running(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """Run ``work(connection, *arguments)`` in a process; kill it if it is still there."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join(LIMIT_S)
        process.close()
        ours.close()


def received(connection: Connection) -> Any:
    """Return what the process sent; fail rather than wait for ever."""
    assert connection.poll(LIMIT_S), f"the process said nothing for {LIMIT_S} s"
    return connection.recv()


def count_up(connection: Connection, url: str, times: int) -> None:
    """Add 1 to the project's number ``times`` times, each in a write of its own."""
    database = Database(url, PATIENT)
    connection.recv()
    for _ in range(times):
        database.write(add_one)
    database.close()
    connection.send("done")


def add_one(tx: Transaction) -> int:
    """Read the number, add 1, write it back under guard, and tell it in an event."""
    seen = tenancy.get_project(tx, PROJECT)
    assert seen is not None
    number = (seen.archived_at_ms or 0) + 1
    tenancy.update_project(tx, seen, replace(seen, archived_at_ms=number))
    events.append(tx, samples.event(number, subject_id=PROJECT, data={"number": number}))
    return number


def count_up_and_tell(connection: Connection, url: str) -> None:
    """Add 1 for ever and tell each number once it is committed."""
    database = Database(url, PATIENT)
    while True:
        connection.send(database.write(add_one))


def stop_in_the_middle(connection: Connection, url: str) -> None:
    """Stop between a write and its commit, for ever."""

    def write(tx: Transaction) -> None:
        add_one(tx)
        connection.send(os.getpid())
        threading.Event().wait()

    Database(url, PATIENT).write(write)


def fill_the_disk(connection: Connection, url: str, size_bytes: int) -> None:
    """Add 1 until no file may grow beyond ``size_bytes``; tell each number and the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    database = Database(url, PATIENT)
    try:
        while True:
            connection.send(database.write(add_one))
    except StoreUnavailableError as error:
        connection.send(str(error))
    with database.read() as tx:
        project = tenancy.get_project(tx, PROJECT)
        assert project is not None
        connection.send(project.archived_at_ms)
    database.close()


def take_lease(connection: Connection, url: str, holder: str, rounds: int) -> None:
    """Try once for the lease of each round and tell which were taken."""
    database = Database(url, PATIENT)
    connection.recv()
    taken: list[int] = []
    for number in range(rounds):
        name = f"round-{number}"
        if database.write(lambda tx, name=name: leases.acquire(tx, name, holder, 0, 1_000)):
            taken.append(number)
    database.close()
    connection.send(taken)


def ship_usage(connection: Connection, url: str, batches: list[range]) -> None:
    """Send the batches as a gateway does and tell how many events were new in all."""
    database = Database(url, PATIENT)
    connection.recv()
    new = 0
    for batch in batches:
        batch_events = samples.usage_events(batch)
        new += database.write(lambda tx, e=batch_events: usage.accept(tx, e, samples.NOW_MS))
    database.close()
    connection.send(new)


def roll_up_usage(connection: Connection, url: str) -> None:
    """Roll up until told to stop; tell how many events that were."""
    database = Database(url, PATIENT)
    connection.recv()
    rolled = 0
    while not connection.poll():
        rolled += database.write(lambda tx: usage.roll_up(tx, samples.NOW_MS, 37))
        time.sleep(0.002)
    while further := database.write(lambda tx: usage.roll_up(tx, samples.NOW_MS, 1_000)):
        rolled += further
    database.close()
    connection.send(rolled)
