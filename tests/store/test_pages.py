"""Pages of every list: complete, stable, and blind to what another project has."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.store import samples
from tests.store.samples import DEPLOYMENT, NOW_MS, ORG, OTHER_PROJECT, PROJECT
from tramontane.domain.refusal import Code, RefusedError
from tramontane.store import catalog, deployments, replicas, tenancy, usage
from tramontane.store.db import Database, Transaction

COUNT = 23
# Several things are made in one millisecond: the id decides then.
TIMES = [NOW_MS + number // 4 for number in range(COUNT)]

List = Callable[..., list[Any]]
Insert = Callable[[Transaction, Any], object]


def _of(make: Callable[..., Any], first: int = 10) -> list[Any]:
    return [make(first + n, created_at_ms=TIMES[n]) for n in range(COUNT)]


LISTS: dict[str, tuple[Insert, Callable[..., Any], List]] = {
    "organizations": (
        tenancy.insert_organization,
        samples.organization,
        tenancy.list_organizations,
    ),
    "projects": (tenancy.insert_project, samples.project, tenancy.list_projects),
    "projects of one": (
        tenancy.insert_project,
        samples.project,
        lambda tx, **page: tenancy.list_projects(tx, organization_id=ORG, **page),
    ),
    "api keys": (
        tenancy.insert_api_key,
        samples.api_key,
        lambda tx, **page: tenancy.list_api_keys(tx, PROJECT, **page),
    ),
    "models": (catalog.insert_model, samples.model, catalog.list_models),
    "deployments": (
        deployments.insert,
        samples.deployment,
        lambda tx, **page: deployments.list_for(tx, PROJECT, **page),
    ),
    "all deployments": (
        deployments.insert,
        samples.deployment,
        lambda tx, **page: deployments.list_for(tx, None, **page),
    ),
    "replicas": (
        replicas.insert,
        samples.replica,
        lambda tx, **page: replicas.list_for(tx, PROJECT, deployment_id=DEPLOYMENT, **page),
    ),
}


@pytest.fixture(autouse=True)
def _populated(database: Database) -> None:
    samples.populate(database)


@pytest.mark.parametrize("name", LISTS)
def test_pages_are_complete_and_keep_their_place(database, name):
    insert, make, list_page = LISTS[name]
    stored = _of(make)
    for each in reversed(stored):
        database.write(lambda tx, each=each: insert(tx, each))
    seen: list[Any] = []
    after: str | None = None
    while True:
        with database.read() as tx:
            page = list_page(tx, after=after, limit=4)
        seen += page
        if len(page) < 4:
            break
        after = page[-1].id
        # What is made meanwhile, even with an older time, moves nothing that was seen.
        late = make(100 + len(seen), created_at_ms=NOW_MS - 1)
        database.write(lambda tx, late=late: insert(tx, late))
    mine = {each.id for each in stored}
    assert [each for each in seen if each.id in mine] == stored
    order = [(each.created_at_ms, each.id) for each in seen]
    assert order == sorted(set(order))


def test_a_page_has_20_items_unless_asked(database):
    database.write(lambda tx: [catalog.insert_model(tx, each) for each in _of(samples.model)])
    with database.read() as tx:
        assert len(catalog.list_models(tx)) == 20
        assert len(catalog.list_models(tx, limit=1_000)) == COUNT
        for limit in (0, -1, 1_001):
            with pytest.raises(ValueError, match="1 to 1000 items"):
                catalog.list_models(tx, limit=limit)


def test_a_page_after_an_unknown_item_is_refused_not_empty(database):
    gone = samples.model(1).id
    with database.read() as tx:
        for ask in (
            lambda: catalog.list_models(tx, after=gone),
            lambda: usage.list_events(tx, PROJECT, after=gone),
        ):
            with pytest.raises(RefusedError) as raised:
                ask()
            refusal = raised.value.refusal
            assert (refusal.code, refusal.param) == (Code.INVALID_VALUE, "after")
            assert gone in refusal.message


def test_a_page_after_another_projects_item_is_refused_the_same(database):
    database.write(lambda tx: usage.accept(tx, [samples.usage_event(1)], NOW_MS))
    database.write(lambda tx: tenancy.insert_api_key(tx, samples.api_key(1)))
    database.write(lambda tx: replicas.insert(tx, samples.replica(1)))
    with database.read() as tx:
        for ask in (
            lambda project: deployments.list_for(tx, project, after=DEPLOYMENT),
            lambda project: tenancy.list_api_keys(tx, project, after=samples.api_key(1).id),
            lambda project: replicas.list_for(tx, project, after=samples.replica(1).id),
            lambda project: usage.list_events(tx, project, after=samples.usage_event(1).id),
        ):
            ask(PROJECT)
            with pytest.raises(RefusedError):
                ask(OTHER_PROJECT)


def test_a_page_after_an_item_that_left_the_list_goes_on(database):
    stored = _of(samples.deployment)
    database.write(lambda tx: [deployments.insert(tx, each) for each in stored])
    with database.read() as tx:
        page = deployments.list_for(tx, PROJECT, limit=5)
        last = page[-1]
    database.write(lambda tx: deployments.update(tx, last, samples.gone(last)))
    with database.read() as tx:
        rest = deployments.list_for(tx, PROJECT, after=last.id, limit=100)
        everything = deployments.list_for(tx, PROJECT, limit=100)
    assert [*page[:-1], *rest] == everything
