"""Stored responses: kept for gateways, shown to their project, cancelled and deleted by it.

A gateway brings a response that it may store, or one that it is about to run in the background.
What a project may do with its own is all here; another project's id is one that does not exist.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.responses.stored import (
    BYTES_MAX,
    CHAIN_BYTES_MAX,
    CHAIN_MAX,
    ResponseStatus,
    StoredResponse,
    shown,
    text_of,
)
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock
from tramontane.services.scope import Page, page_of
from tramontane.store import tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.responses import stored

Items = list[dict[str, Any]]
_NO_STORAGE: Final = (
    "the organization does not allow responses to be stored: an operator can allow it with "
    "may_store_responses of the organization"
)


@dataclass(frozen=True, slots=True)
class Brought:
    """A response as a gateway brings it; its status and what it continues stand in ``body``."""

    organization_id: str
    project_id: str
    api_key_id: str
    holder: str
    body: Mapping[str, Any]
    input_items: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a gateway process says every second of its responses in the background."""

    holder: str
    queued: Sequence[str]
    in_progress: Sequence[str]


class Responses:
    """Use cases of stored responses."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    # For gateways.

    def keep(self, brought: Brought) -> None:
        """Store a response. Keeping it again changes nothing; refused where none may be stored."""
        now_ms = self._clock.now_ms()
        response = StoredResponse(
            id=brought.body["id"],
            organization_id=brought.organization_id,
            project_id=brought.project_id,
            api_key_id=brought.api_key_id,
            status=ResponseStatus(brought.body["status"]),
            is_background=bool(brought.body.get("background")),
            holder=brought.holder,
            previous_id=brought.body.get("previous_response_id"),
            body=text_of(brought.body),
            input_items=text_of(brought.input_items),
            created_at_ms=now_ms,
            seen_at_ms=now_ms,
        )
        _check_size(response)

        def write(tx: Transaction) -> None:
            owner = tenancy.get_organization(tx, brought.organization_id)
            if owner is None or not owner.may_store_responses:
                raise refuse(Code.PERMISSION_DENIED, _NO_STORAGE)
            stored.insert(tx, response)

        self._db.write(write)

    def finish(self, project_id: str, body: Mapping[str, Any]) -> ResponseStatus:
        """Store the end of a response in the background and return the status that it has now.

        One that is over already, as it was cancelled, stays as it is.
        """

        def write(tx: Transaction) -> ResponseStatus:
            seen = _get(tx, project_id, body["id"])
            if seen.status.is_final:
                return seen.status
            status = ResponseStatus(body["status"])
            new = replace(seen, status=status, body=text_of(body), seen_at_ms=self._clock.now_ms())
            _check_size(new)
            stored.update_response(tx, seen, new)
            return status

        return self._db.write(write)

    def report(self, report: Report) -> Sequence[str]:
        """Note what a gateway works on; return those that it should stop: cancelled or deleted."""
        said = {*report.queued, *report.in_progress}
        if not said:
            return []
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> dict[str, str]:
            known = stored.unfinished_of(tx, report.holder, said)
            begun = [i for i in report.in_progress if known.get(i) == ResponseStatus.QUEUED]
            if begun:
                stored.note_seen(tx, begun, now_ms, ResponseStatus.IN_PROGRESS)
            stored.note_seen(tx, list(known), now_ms)
            return known

        known = self._db.write(write)
        return sorted(said - known.keys())

    def history(self, project_id: str, response_id: str) -> Items:
        """Return what a response and those that it continues asked and answered, oldest first.

        Refused when the response, or one before it, is not there, failed or is not over.
        """
        parts: list[StoredResponse] = []
        size = 0
        with self._db.read() as tx:
            wanted: str | None = response_id
            while wanted is not None:
                found = stored.get_for(tx, project_id, wanted)
                if found is None:
                    raise _no_previous(response_id, wanted)
                parts.append(found)
                size += found.size_bytes
                if len(parts) > CHAIN_MAX or size > CHAIN_BYTES_MAX:
                    raise _too_long(response_id)
                wanted = found.previous_id
        _check_continuable(parts[0])
        items: Items = []
        for part in reversed(parts):
            items += json.loads(part.input_items)
            items += json.loads(part.body)["output"]
        return items

    # For clients.

    def get(self, principal: Principal, response_id: str) -> dict[str, Any]:
        """Return the response as it is now."""
        with self._db.read() as tx:
            return shown(_get(tx, principal.project_id, response_id))

    def input_items(
        self,
        principal: Principal,
        response_id: str,
        *,
        order: Literal["asc", "desc"],
        after: str | None,
        limit: int,
    ) -> Page[dict[str, Any]]:
        """Return a page of the items that the response was asked with, its own ones only."""
        with self._db.read() as tx:
            found = _get(tx, principal.project_id, response_id)
        items: Items = json.loads(found.input_items)
        if order == "desc":
            items.reverse()
        if after is not None:
            places = [index for index, item in enumerate(items) if item["id"] == after]
            if not places:
                message = f"'after' must be the id of an item of this list, and {after!r} is not"
                raise refuse(Code.INVALID_VALUE, message, param="after")
            items = items[places[0] + 1 :]
        return page_of(items[: limit + 1], limit)

    def cancel(self, principal: Principal, response_id: str) -> dict[str, Any]:
        """Cancel a response in the background; one that is over stays as it is."""

        def write(tx: Transaction) -> StoredResponse:
            seen = _get(tx, principal.project_id, response_id)
            if not seen.is_background:
                message = (
                    f"the response {response_id} did not run in the background, so there is "
                    "nothing to cancel: only one created with 'background': true can be cancelled"
                )
                raise refuse(Code.INVALID_VALUE, message)
            if seen.status.is_final:
                return seen
            new = replace(seen, status=ResponseStatus.CANCELLED)
            return stored.update_response(tx, seen, replace(new, body=text_of(shown(new))))

        return shown(self._db.write(write))

    def delete(self, principal: Principal, response_id: str) -> None:
        """Delete a response for good; one that is being worked on is stopped."""
        is_gone = self._db.write(
            lambda tx: stored.delete_for(tx, principal.project_id, response_id)
        )
        if not is_gone:
            raise _not_found(response_id)


def _get(tx: Transaction, project_id: str, response_id: str) -> StoredResponse:
    found = stored.get_for(tx, project_id, response_id)
    if found is None:
        raise _not_found(response_id)
    return found


def _check_size(response: StoredResponse) -> None:
    if response.size_bytes > BYTES_MAX:
        message = (
            f"the response and its input have {response.size_bytes} bytes: at most {BYTES_MAX} "
            "are stored; send 'store': false"
        )
        raise refuse(Code.BODY_TOO_LARGE, message, param="store")


def _check_continuable(response: StoredResponse) -> None:
    if response.status in {ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE}:
        return
    message = (
        f"the response {response.id} is {response.status} and cannot be continued: name one that "
        "is completed"
    )
    raise refuse(Code.INVALID_VALUE, message, param="previous_response_id")


def _not_found(response_id: str) -> RefusedError:
    message = (
        f"there is no response {response_id}: it was not stored, has another project, or was "
        "deleted"
    )
    return refuse(Code.NOT_FOUND, message)


def _no_previous(response_id: str, missing: str) -> RefusedError:
    param = "previous_response_id"
    if missing == response_id:
        message = f"there is no response {response_id} to continue: was it stored and not deleted?"
    else:
        message = (
            f"the response {response_id} cannot be continued, as {missing} before it was deleted: "
            "send the earlier items in 'input'"
        )
    return refuse(Code.NOT_FOUND, message, param=param)


def _too_long(response_id: str) -> RefusedError:
    message = (
        f"the conversation before {response_id} is longer than {CHAIN_MAX} responses or "
        f"{CHAIN_BYTES_MAX} bytes: send what matters of it in 'input'"
    )
    return refuse(Code.INVALID_VALUE, message, param="previous_response_id")
