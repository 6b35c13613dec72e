from dataclasses import replace

import pytest

from tests.store import samples
from tests.store.samples import DEPLOYMENT, OTHER_DEPLOYMENT, OTHER_PROJECT, PROJECT
from tramontane.domain.event import Event
from tramontane.store import events


@pytest.fixture
def stored(database) -> list[Event]:
    """Five events: three of one project, one of another, one of the operator alone."""
    told = [
        samples.event(1),
        samples.event(2, project_id=OTHER_PROJECT, subject_id=OTHER_DEPLOYMENT),
        samples.event(3),
        samples.event(4, project_id=None, subject_id="nod_1", data={}),
        samples.event(5),
    ]
    return database.write(lambda tx: [events.append(tx, event) for event in told])


def test_events_are_numbered_in_their_order(stored):
    numbers = [event.sequence for event in stored]
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 1


def test_a_story_is_one_subjects_oldest_first_page_by_page(database, stored):
    mine = [stored[0], stored[2], stored[4]]
    with database.read() as tx:
        assert events.story(tx, DEPLOYMENT, PROJECT) == mine
        first = events.story(tx, DEPLOYMENT, PROJECT, limit=2)
        assert first == mine[:2]
        assert events.story(tx, DEPLOYMENT, PROJECT, after=first[-1].sequence) == mine[2:]
        assert events.last_of(tx, DEPLOYMENT, limit=2) == mine[1:]


def test_another_projects_story_is_empty(database, stored):
    with database.read() as tx:
        assert events.story(tx, DEPLOYMENT, OTHER_PROJECT) == []
        assert events.story(tx, "nod_1", PROJECT) == []
        assert events.story(tx, DEPLOYMENT, None) == [stored[0], stored[2], stored[4]]


def test_recent_is_newest_first(database, stored):
    with database.read() as tx:
        assert events.recent(tx, None) == stored[::-1]
        assert events.recent(tx, PROJECT, limit=2) == [stored[4], stored[2]]
        assert events.recent(tx, PROJECT, before=stored[2].sequence) == [stored[0]]


def test_a_rolled_back_event_never_was(database, stored):
    def write(tx):
        events.append(tx, samples.event(6))
        raise KeyError

    with pytest.raises(KeyError):
        database.write(write)
    with database.read() as tx:
        assert events.recent(tx, None) == stored[::-1]


def test_data_comes_back_as_it_was(database):
    data = {"text": 'é "quoted" \x00 \n', "number": 2**63 - 1, "nothing": None}
    written = database.write(lambda tx: events.append(tx, samples.event(1, data=data)))
    with database.read() as tx:
        assert events.recent(tx, None) == [written]
    assert written == replace(samples.event(1, data=data), sequence=written.sequence)
