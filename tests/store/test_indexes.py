"""Every list is read in the order of an index: no scan of a table that grows, no sorting."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text

from tests.store import samples
from tests.store.samples import CLUSTER, DEPLOYMENT, NOW_MS, ORG, PROJECT
from tramontane.store import (
    catalog,
    deployments,
    events,
    fleet,
    leases,
    replicas,
    routes,
    tenancy,
    usage,
)
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts

EVENT = samples.usage_event(1)
KEY = samples.api_key(1)

READS: dict[str, Callable[[Transaction], object]] = {
    "organizations": lambda tx: tenancy.list_organizations(tx, after=ORG),
    "organization by id": lambda tx: tenancy.get_organization(tx, ORG),
    "organization by name": lambda tx: tenancy.get_organization(tx, "org-1"),
    "projects": lambda tx: tenancy.list_projects(tx, after=PROJECT),
    "projects of one": lambda tx: tenancy.list_projects(tx, organization_id=ORG, after=PROJECT),
    "project by name": lambda tx: tenancy.get_project(tx, "project-1", organization_id=ORG),
    "keys": lambda tx: tenancy.list_api_keys(tx, None, after=KEY.id),
    "keys of one": lambda tx: tenancy.list_api_keys(tx, PROJECT, after=KEY.id),
    "key by hash": lambda tx: tenancy.find_api_key_by_hash(tx, KEY.key_hash),
    "models": lambda tx: catalog.list_models(tx, after=samples.model(1).id),
    "model by name": lambda tx: catalog.get_model(tx, "model-1"),
    "versions": lambda tx: catalog.list_model_versions(tx, samples.model(1).id),
    "latest version": lambda tx: catalog.latest_version(tx, samples.model(1).id),
    "deployments": lambda tx: deployments.list_for(tx, None, after=DEPLOYMENT),
    "deployments of one": lambda tx: deployments.list_for(tx, PROJECT, after=DEPLOYMENT),
    "deployment by name": lambda tx: deployments.get_for(tx, PROJECT, "deployment-1"),
    "live deployments": deployments.list_live,
    "users of a model": lambda tx: deployments.uses_model_version(tx, samples.model(1).id),
    "replicas": lambda tx: replicas.list_for(tx, None, after=samples.replica(1).id),
    "replicas of one": lambda tx: replicas.list_for(tx, PROJECT, after=samples.replica(1).id),
    "replicas of a deployment": lambda tx: replicas.list_for(
        tx, None, deployment_id=DEPLOYMENT, after=samples.replica(1).id
    ),
    "all replicas of a deployment": lambda tx: replicas.list_of(tx, DEPLOYMENT),
    "holding replicas": replicas.list_holding,
    "ended replicas": lambda tx: replicas.list_ended_since(tx, 0, limit=9),
    "ended attempts": lambda tx: attempts.list_ended_since(tx, 0, limit=9),
    "nodes of a cluster": lambda tx: fleet.list_nodes(tx, CLUSTER),
    "story": lambda tx: events.story(tx, DEPLOYMENT, PROJECT),
    "end of a story": lambda tx: events.last_of(tx, DEPLOYMENT),
    "recent": lambda tx: events.recent(tx, None, before=9),
    "recent of one": lambda tx: events.recent(tx, PROJECT, before=9),
    "route table": routes.current,
    "route revision": routes.current_revision,
    "usage": lambda tx: usage.list_events(tx, None, after=EVENT.id),
    "usage of one": lambda tx: usage.list_events(tx, PROJECT, after=EVENT.id),
    "unrolled": usage.unrolled,
}


@pytest.fixture
def populated(sqlite_database: Database) -> Database:
    samples.populate(sqlite_database)

    def write(tx: Transaction) -> None:
        tenancy.insert_api_key(tx, KEY)
        catalog.insert_model(tx, samples.model(1))
        replicas.insert(tx, samples.replica(1))
        usage.accept(tx, [EVENT], NOW_MS)
        leases.acquire(tx, "a", "b", 0, 1)

    sqlite_database.write(write)
    return sqlite_database


def plans(database: Database, read: Callable[[Transaction], object]) -> list[str]:
    """Return SQLite's plan of every statement of ``read``, one line for each step."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    with database.read() as tx:
        event.listen(tx.connection, "before_cursor_execute", note)
        read(tx)
        event.remove(tx.connection, "before_cursor_execute", note)
        told: list[str] = []
        for statement, parameters in statements:
            rows = tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            told += [row.detail for row in rows]
    assert told
    return told


def is_slow(step: str) -> bool:
    scans_table = re.match(r"SCAN \w+$", step) is not None
    return scans_table or "TEMP B-TREE" in step


@pytest.mark.parametrize("name", READS)
def test_a_list_is_read_along_an_index(populated, name):
    told = plans(populated, READS[name])
    assert [step for step in told if is_slow(step)] == [], told


def test_this_test_sees_a_scan_and_a_sort(populated):
    def read(tx: Transaction) -> None:
        tx.execute(text("SELECT * FROM replicas ORDER BY changed_at_ms"))

    assert [is_slow(step) for step in plans(populated, read)] == [True, True]


@pytest.mark.parametrize(
    ("project_id", "expected"),
    [
        (
            None,
            [
                "usage_totals USING INDEX sqlite_autoindex_usage_totals_1 (hour_ms>? AND",
                "usage_events USING INTEGER PRIMARY KEY (rowid>?)",
                "usage_events USING INDEX ix_usage_events_start (started_at_ms>? AND",
                "usage_events USING INDEX ix_usage_events_start (started_at_ms>? AND",
            ],
        ),
        (
            PROJECT,
            [
                "usage_totals USING INDEX ix_usage_totals_project_hour (project_id=? AND hour_ms>?",
                "usage_events USING INDEX ix_usage_events_project_order (project_id=? AND seq",
                "usage_events USING INDEX ix_usage_events_project_start (project_id=? AND started_",
                "usage_events USING INDEX ix_usage_events_project_start (project_id=? AND started_",
            ],
        ),
    ],
)
def test_totals_read_whole_hours_from_totals_and_only_edges_and_news_from_events(
    populated, project_id, expected
):
    def read(tx: Transaction) -> None:
        usage.totals(tx, project_id, from_ms=NOW_MS + 1, to_ms=NOW_MS + 90_000_000)

    found = [step for step in plans(populated, read) if re.match(r"(SEARCH|SCAN) usage_[te]", step)]
    assert len(found) == len(expected), found
    for step, start in zip(found, expected, strict=True):
        assert step.startswith(f"SEARCH {start}"), found
