"""Stored responses: read by their project alone, and really gone once deleted."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import delete, func, select, update

from tramontane.domain.responses.stored import ResponseStatus, StoredResponse
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import insert_if_free, update_guarded
from tramontane.store.tables import RESPONSE_IS_UNFINISHED, responses

BATCH_MAX: Final = 500  # rows that one transaction of the clean-up deletes


def insert(tx: Transaction, response: StoredResponse) -> bool:
    """Insert it; False when its id is there already, as after an answer that got lost."""
    values = {
        "id": response.id,
        "organization_id": response.organization_id,
        "project_id": response.project_id,
        "api_key_id": response.api_key_id,
        "is_background": int(response.is_background),
        "holder": response.holder,
        "previous_id": response.previous_id,
        "input_items": response.input_items,
        "created_at_ms": response.created_at_ms,
        "revision": response.revision,
        **_values(response),
    }
    return insert_if_free(tx, responses, values, unique=("id",))


def get_for(tx: Transaction, project_id: str, response_id: str) -> StoredResponse | None:
    """Return the project's response with that id; another project's is not there."""
    query = select(responses).where(
        responses.c.id == response_id, responses.c.project_id == project_id
    )
    row = tx.execute(query).one_or_none()
    return _response(row) if row else None


def update_response(tx: Transaction, seen: StoredResponse, new: StoredResponse) -> StoredResponse:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        responses,
        noun="response",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_values(new),
    )
    return replace(new, revision=revision)


def delete_for(tx: Transaction, project_id: str, response_id: str) -> bool:
    """Delete the project's response; False when there is none."""
    statement = delete(responses).where(
        responses.c.id == response_id, responses.c.project_id == project_id
    )
    return tx.execute(statement).rowcount == 1


def unfinished_of(tx: Transaction, holder: str, ids: Collection[str]) -> dict[str, str]:
    """Return the statuses, by id, of the holder's responses among ``ids`` that go on."""
    query = select(responses.c.id, responses.c.status).where(
        responses.c.id.in_(ids), responses.c.holder == holder, RESPONSE_IS_UNFINISHED
    )
    return {row.id: row.status for row in tx.execute(query)}


def note_seen(
    tx: Transaction, ids: Collection[str], now_ms: int, status: ResponseStatus | None = None
) -> None:
    """Note that the holder of ``ids`` works on them; ``status`` replaces theirs."""
    values: dict[str, object] = {"seen_at_ms": now_ms}
    if status is not None:
        values |= {"status": status.value, "revision": responses.c.revision + 1}
    tx.execute(
        update(responses).where(responses.c.id.in_(ids), RESPONSE_IS_UNFINISHED).values(values)
    )


def list_silent(tx: Transaction, before_ms: int) -> list[StoredResponse]:
    """Return some unfinished responses of which no gateway has spoken since ``before_ms``."""
    query = (
        select(responses)
        .where(RESPONSE_IS_UNFINISHED, responses.c.seen_at_ms < before_ms)
        .order_by(responses.c.seen_at_ms)
        .limit(BATCH_MAX)
    )
    return [_response(row) for row in tx.execute(query)]


def list_older(tx: Transaction, before_ms: int) -> list[str]:
    """Return the ids of some responses that were made before ``before_ms``."""
    query = (
        select(responses.c.id)
        .where(responses.c.created_at_ms < before_ms)
        .order_by(responses.c.created_at_ms)
        .limit(BATCH_MAX)
    )
    return list(tx.execute(query).scalars())


def list_beyond(tx: Transaction, project_bytes_max: int) -> list[str]:
    """Return the ids of the oldest responses of projects that keep too much, some at a time."""
    total = func.sum(responses.c.size_bytes)
    full = select(responses.c.project_id, total.label("total")).group_by(responses.c.project_id)
    found: list[str] = []
    for row in tx.execute(full.having(total > project_bytes_max)):
        found += _oldest(tx, row.project_id, row.total - project_bytes_max)
    return found[:BATCH_MAX]


def delete_all(tx: Transaction, ids: Sequence[str]) -> int:
    """Delete the responses with these ids and return how many there were."""
    if not ids:
        return 0
    return tx.execute(delete(responses).where(responses.c.id.in_(ids))).rowcount


def _oldest(tx: Transaction, project_id: str, excess: int) -> list[str]:
    query = (
        select(responses.c.id, responses.c.size_bytes)
        .where(responses.c.project_id == project_id)
        .order_by(responses.c.created_at_ms, responses.c.id)
        .limit(BATCH_MAX)
    )
    found: list[str] = []
    for row in tx.execute(query):
        if excess <= 0:
            break
        excess -= row.size_bytes
        found.append(row.id)
    return found


def _values(response: StoredResponse) -> dict[str, object]:
    return {
        "status": response.status.value,
        "body": response.body,
        "size_bytes": response.size_bytes,
        "seen_at_ms": response.seen_at_ms,
    }


def _response(row: AnyRow) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        api_key_id=row.api_key_id,
        status=ResponseStatus(row.status),
        is_background=bool(row.is_background),
        holder=row.holder,
        previous_id=row.previous_id,
        body=row.body,
        input_items=row.input_items,
        created_at_ms=row.created_at_ms,
        seen_at_ms=row.seen_at_ms,
        revision=row.revision,
    )
