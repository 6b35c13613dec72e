import json
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.pool import NullPool

from tests.store import samples
from tests.support.databases import migrate
from tramontane.domain import ids
from tramontane.domain.launch import PriorityClass
from tramontane.domain.spending.limits import LimitMeter, LimitScope, meters_of
from tramontane.store import tenancy
from tramontane.store.db import Database, NewerSchemaError, StoreUnavailableError
from tramontane.store.migrations import revisions
from tramontane.store.migrations.schema import metadata
from tramontane.store.quotas import quotas
from tramontane.store.spending import limits

ROOT = Path(__file__).parents[2]
PYTHON_ASKED_FOR_ALEMBIC = """
import sys
from tramontane.store.db import Database
database = Database(sys.argv[1])
database.migrate()
database.ping()
database.close()
print("alembic" in sys.modules)
"""


def plain(url: str):
    """Return an engine without any of the store's settings."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, poolclass=NullPool)


def table_names(url: str) -> set[str]:
    return set(inspect(plain(url)).get_table_names())


def test_an_empty_database_gets_every_table(empty_url):
    migrate(empty_url)
    assert table_names(empty_url) == {*metadata.tables, "alembic_version"}
    with plain(empty_url).connect() as connection:
        stored = connection.execute(text("SELECT version_num FROM alembic_version")).scalars()
        assert stored.all() == [revisions.HEAD]


def test_migrations_and_tables_agree(database_url):
    with plain(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_partial_indexes_and_strict_tables_agree(sqlite_url, tmp_path):
    """`compare_metadata` looks neither at conditions of indexes nor at SQLite's options."""
    made = f"sqlite:///{tmp_path / 'made.sqlite'}"
    with plain(made).begin() as connection:
        metadata.create_all(connection)
    query = text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'")
    told = []
    for url in (sqlite_url, made):
        with plain(url).connect() as connection:
            told.append({name: _words(sql) for name, sql in connection.execute(query)})
    assert told[0] == told[1]
    assert "STRICT" in told[0]["usage_events"]
    assert "WHERE" in told[0]["uq_deployments_name"]


def _words(sql: str | None) -> list[str]:
    """Return the statement's words, whatever the order of a table's constraints."""
    return sorted((sql or "").replace(",", " ").replace("(", " ").replace(")", " ").split())


def test_migrating_again_changes_nothing(database, database_url):
    samples.populate(database)
    database.migrate()
    with database.read() as tx:
        assert len(tenancy.list_projects(tx)) == 2
    assert table_names(database_url) == {*metadata.tables, "alembic_version"}


def test_several_processes_may_migrate_at_once(empty_url):
    if empty_url.startswith("sqlite"):
        Database(empty_url).close()
    failures: list[Exception] = []

    def work():
        try:
            migrate(empty_url)
        except Exception as error:  # noqa: BLE001 - the thread's answer
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert table_names(empty_url) == {*metadata.tables, "alembic_version"}


def test_a_newer_schema_is_refused_and_left_as_it_is(database, database_url):
    samples.populate(database)
    set_revision(database_url, "0999")
    try:
        with pytest.raises(NewerSchemaError) as raised:
            database.migrate()
        message = str(raised.value)
        assert "has the schema 0999, newer than this version's" in message
        assert "nothing was changed" in message
        assert "\n" not in message
        with plain(database_url).connect() as connection:
            stored = connection.execute(text("SELECT version_num FROM alembic_version"))
            assert stored.scalars().all() == ["0999"]
    finally:
        set_revision(database_url, revisions.HEAD)


def set_revision(url: str, revision: str) -> None:
    with plain(url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def test_a_migration_that_fails_leaves_nothing_behind(empty_url):
    with plain(empty_url).begin() as connection:
        connection.execute(text("CREATE TABLE usage_totals (mine INTEGER)"))  # made last by 0001
    database = Database(empty_url)
    with pytest.raises(Exception, match="already exists") as raised:
        database.migrate()
    assert not isinstance(raised.value, StoreUnavailableError)
    database.close()
    assert table_names(empty_url) == {"usage_totals"}


def test_the_constants_are_the_files():
    config = Config()
    config.set_main_option("script_location", "tramontane.store:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    files = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(files)) == revisions.REVISIONS
    assert scripts.get_current_head() == revisions.HEAD


@pytest.mark.slow
def test_alembic_is_imported_only_to_change_tables(tmp_path, sqlite_url):
    empty = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    told = [
        subprocess.run(
            [sys.executable, "-c", PYTHON_ASKED_FOR_ALEMBIC, url],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout.strip()
        for url in (empty, empty, sqlite_url)
    ]
    assert told == ["True", "False", "False"]


@pytest.mark.slow
def test_an_installed_wheel_can_migrate(tmp_path):
    """The revisions must travel with the package: they are read as files, not imported."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes() if (ROOT / name).exists() else b"")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=left_out)
    build = [sys.executable, "-c", "import setuptools.build_meta as b; b.build_wheel('../dist')"]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    url = f"sqlite:///{tmp_path / 'wheel.sqlite'}"
    code = "import tramontane; print(tramontane.__file__)" + PYTHON_ASKED_FOR_ALEMBIC
    ran = subprocess.run(
        [sys.executable, "-c", code, url],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
    )
    assert ran.stdout.startswith(str(tmp_path / "installed"))
    assert table_names(url) == {*metadata.tables, "alembic_version"}


def test_bounds_of_keys_become_limits(empty_url):
    """A database of 0001 with two keys, one of them bounded."""
    config = Config()
    config.set_main_option("script_location", "tramontane.store:migrations")
    config.set_main_option("path_separator", "os")
    key = "'a', 'member',"
    rows = (
        "INSERT INTO organizations VALUES ('org', 'o', 1, 1)",
        "INSERT INTO projects VALUES ('prj', 'org', 'p', 1, NULL, 1)",
        f"INSERT INTO api_keys VALUES ('key_a', 'prj', {key} 'h1', 'r', 1, NULL, NULL, 7, 1)",
        f"INSERT INTO api_keys VALUES ('key_b', 'prj', {key} 'h2', 'r', 1, NULL, NULL, NULL, 1)",
    )
    with plain(empty_url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for row in rows:
            connection.execute(text(row))
    database = Database(empty_url)
    database.migrate()
    with database.read() as tx:
        (bound,) = limits.ROWS.list_all(tx)
        assert (bound.scope, bound.subject_id, bound.model) == (LimitScope.API_KEY, "key_a", None)
        assert bound.requests_in_flight_max == 7
        assert list(meters_of(bound)) == [LimitMeter.IN_FLIGHT]
        assert ids.prefix_of(bound.id) == ids.LIMIT
        assert len(tenancy.list_api_keys(tx, "prj")) == 2
    database.close()


def test_who_has_asked_for_reserved_may_go_on(empty_url):
    """A database of 0010 with jobs and deployments of organizations."""
    config = Config()
    config.set_main_option("script_location", "tramontane.store:migrations")
    config.set_main_option("path_separator", "os")
    asked = '{"env":[],"priority_class":"reserved"}'
    hidden = json.dumps({"env": [["X", asked]], "priority_class": "standard"})
    specs = {"asked": asked, "quota": asked, "hidden": hidden}
    with plain(empty_url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")

        def insert(table: str, **values: object) -> None:
            columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            query = text(f"INSERT INTO {table} ({columns}) VALUES ({marks})")
            connection.execute(query, values)

        for name in (*specs, "serves"):
            insert("organizations", id=f"org_{name}", name=name, created_at_ms=1, revision=1)
            owned = {"id": f"prj_{name}", "organization_id": f"org_{name}"}
            insert("projects", **owned, name=name, created_at_ms=1, revision=1)
        for name, spec in specs.items():
            of = {"id": f"job_{name}", "project_id": f"prj_{name}", "name": name, "spec": spec}
            insert("jobs", **of, created_at_ms=1, status="succeeded", digest="", revision=1)
        counts = ("generation", "created_at_ms", "observed_generation", "ready_replicas")
        counts += ("failures", "retry_at_ms", "start_ms", "revision")
        of = {"id": "dep_1", "project_id": "prj_serves", "name": "d", "spec": asked}
        rest = {"model_version_id": "mdv_1", "status": "ready"}
        insert("deployments", **of, **rest, **dict.fromkeys(counts, 1))
        bound = {"scope": "organization", "subject_id": "org_quota", "devices_max": 8}
        insert("quotas", id="quo_1", **bound, share=2, created_at_ms=1)
    database = Database(empty_url)
    database.migrate()
    with database.read() as tx:
        found = {quota.subject_id: quota for quota in quotas.ROWS.list_all(tx)}
    database.close()
    assert set(found) == {"org_asked", "org_quota", "org_serves"}
    assert {quota.priority_classes for quota in found.values()} == {tuple(PriorityClass)}
    assert (found["org_quota"].id, found["org_quota"].devices_max) == ("quo_1", 8)
    assert ids.prefix_of(found["org_asked"].id) == ids.QUOTA
