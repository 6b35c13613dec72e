"""Leases: one row per name says who may act until when.

Holders compare times of their own clocks, so a lease must last much longer than clocks differ.
A holder that stalls past its lease is stopped by revisions, not by the lease.
"""

from sqlalchemy import delete, or_, update

from tramontane.store.db import Transaction
from tramontane.store.statements import insert_if_free
from tramontane.store.tables import leases


def acquire(tx: Transaction, name: str, holder: str, now_ms: int, ttl_ms: int) -> bool:
    """Take or prolong the lease ``name`` until ``now_ms + ttl_ms``; False if another holds it."""
    values = {"holder": holder, "expires_at_ms": now_ms + ttl_ms}
    is_free = or_(leases.c.holder == holder, leases.c.expires_at_ms <= now_ms)
    taken = tx.execute(update(leases).where(leases.c.name == name, is_free).values(values))
    if taken.rowcount == 1:
        return True
    return insert_if_free(tx, leases, {"name": name, **values}, unique=("name",))


def release(tx: Transaction, name: str, holder: str) -> None:
    """Give the lease up, if ``holder`` has it."""
    tx.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
