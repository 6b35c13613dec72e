"""Rows of stored responses: one project's own, unfinished ones, old and too many of them."""

from dataclasses import replace

import pytest

from tramontane.domain.responses.stored import ResponseStatus, StoredResponse, lost, shown
from tramontane.store.db import Database
from tramontane.store.errors import StaleError
from tramontane.store.responses import stored

MINE, THEIRS = "prj_" + "a" * 20, "prj_" + "b" * 20


def make(letter: str = "a", **changes: object) -> StoredResponse:
    response = StoredResponse(
        id="resp_" + letter * 20,
        organization_id="org_" + "a" * 20,
        project_id=MINE,
        api_key_id="key_" + "a" * 20,
        status=ResponseStatus.COMPLETED,
        is_background=False,
        holder="gw-1",
        previous_id=None,
        body='{"output":[],"status":"completed"}',
        input_items="[]",
        created_at_ms=1_000,
        seen_at_ms=1_000,
    )
    return replace(response, **changes)


def put(database: Database, *responses: StoredResponse) -> None:
    for response in responses:
        assert database.write(lambda tx, new=response: stored.insert(tx, new))


def get(database: Database, response: StoredResponse, project: str = MINE) -> StoredResponse | None:
    with database.read() as tx:
        return stored.get_for(tx, project, response.id)


def test_it_is_read_as_it_was_written_by_its_project_alone(database: Database) -> None:
    response = make(body='{"text":"é\\u0000"}', previous_id="resp_x", is_background=True)
    put(database, response)
    assert get(database, response) == response
    assert get(database, response, THEIRS) is None


def test_the_same_id_again_changes_nothing(database: Database) -> None:
    put(database, make())
    again = make(body="{}", project_id=THEIRS)
    assert not database.write(lambda tx: stored.insert(tx, again))
    assert get(database, make()) == make()


def test_a_deleted_one_is_gone_and_only_its_project_deletes_it(database: Database) -> None:
    put(database, make())
    assert not database.write(lambda tx: stored.delete_for(tx, THEIRS, make().id))
    assert database.write(lambda tx: stored.delete_for(tx, MINE, make().id))
    assert get(database, make()) is None
    assert not database.write(lambda tx: stored.delete_for(tx, MINE, make().id))


def test_writes_are_guarded(database: Database) -> None:
    put(database, make(status=ResponseStatus.QUEUED))
    seen = get(database, make())
    assert seen is not None
    new = replace(seen, status=ResponseStatus.COMPLETED, body="{}")
    written = database.write(lambda tx: stored.update_response(tx, seen, new))
    assert get(database, make()) == written
    with pytest.raises(StaleError):
        database.write(lambda tx: stored.update_response(tx, seen, new))


def test_unfinished_ones_are_those_of_their_holder(database: Database) -> None:
    queued = make("a", status=ResponseStatus.QUEUED)
    theirs = make("b", status=ResponseStatus.QUEUED, holder="gw-2")
    over = make("c", status=ResponseStatus.CANCELLED)
    put(database, queued, theirs, over)
    ids = [queued.id, theirs.id, over.id, "resp_" + "z" * 20]
    with database.read() as tx:
        assert stored.unfinished_of(tx, "gw-1", ids) == {queued.id: "queued"}


def test_what_its_gateway_says(database: Database) -> None:
    begun = make("a", status=ResponseStatus.QUEUED)
    over = make("b", status=ResponseStatus.CANCELLED)
    put(database, begun, over)

    def say(tx):
        stored.note_seen(tx, [begun.id, over.id], 5_000, ResponseStatus.IN_PROGRESS)

    database.write(say)
    found = get(database, begun)
    assert found == replace(begun, status=ResponseStatus.IN_PROGRESS, seen_at_ms=5_000, revision=2)
    assert get(database, over) == over
    with database.read() as tx:
        assert stored.list_silent(tx, 5_000) == []
        assert stored.list_silent(tx, 5_001) == [found]


def test_old_ones_and_too_many(database: Database) -> None:
    old, new = make("a"), make("b", created_at_ms=2_000, body='{"x":"' + "y" * 100 + '"}')
    theirs = make("c", project_id=THEIRS)
    put(database, old, new, theirs)
    with database.read() as tx:
        assert sorted(stored.list_older(tx, 2_000)) == [old.id, theirs.id]
        assert stored.list_beyond(tx, old.size_bytes + new.size_bytes) == []
        assert stored.list_beyond(tx, new.size_bytes) == [old.id]
        assert stored.list_beyond(tx, new.size_bytes - 1) == [old.id, new.id]
    assert database.write(lambda tx: stored.delete_all(tx, [old.id, new.id])) == 2
    assert database.write(lambda tx: stored.delete_all(tx, [])) == 0
    assert get(database, new) is None


def test_a_lost_one_says_why() -> None:
    body = shown(lost(make(status=ResponseStatus.QUEUED, body='{"status":"queued","error":null}')))
    assert body["status"] == "failed"
    assert body["error"]["code"] == "server_error"
