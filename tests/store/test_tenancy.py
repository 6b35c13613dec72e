from dataclasses import replace

import pytest

from tests.store import samples
from tests.store.samples import NOW_MS, ORG, OTHER_ORG, OTHER_PROJECT, PROJECT
from tramontane.domain.tenancy import Role
from tramontane.store import tenancy
from tramontane.store.db import Database, NameTakenError, StaleError


@pytest.fixture(autouse=True)
def _two_tenants(database: Database) -> None:
    def write(tx):
        tenancy.insert_organization(tx, samples.organization(1))
        tenancy.insert_organization(tx, samples.organization(2))
        tenancy.insert_project(tx, samples.project(1, name="research"))
        tenancy.insert_project(tx, samples.project(2, organization_id=OTHER_ORG, name="research"))

    database.write(write)


def test_an_organization_is_found_by_id_and_by_name(database):
    with database.read() as tx:
        assert tenancy.get_organization(tx, ORG) == samples.organization(1)
        assert tenancy.get_organization(tx, "org-2") == samples.organization(2)
        assert tenancy.get_organization(tx, "org-3") is None
        assert tenancy.list_organizations(tx) == [
            samples.organization(1),
            samples.organization(2),
        ]


def test_a_taken_organization_name_is_refused_and_the_transaction_goes_on(database):
    def write(tx):
        with pytest.raises(NameTakenError, match="organization name 'org-1' is taken") as raised:
            tenancy.insert_organization(tx, samples.organization(3, name="org-1"))
        assert (raised.value.noun, raised.value.name) == ("organization", "org-1")
        tenancy.insert_organization(tx, samples.organization(3))

    database.write(write)
    with database.read() as tx:
        assert len(tenancy.list_organizations(tx)) == 3


def test_project_names_are_unique_in_their_organization_only(database):
    with pytest.raises(NameTakenError):
        database.write(lambda tx: tenancy.insert_project(tx, samples.project(3, name="research")))
    with database.read() as tx:
        mine = tenancy.get_project(tx, "research", organization_id=ORG)
        theirs = tenancy.get_project(tx, "research", organization_id=OTHER_ORG)
        assert (mine.id, theirs.id) == (PROJECT, OTHER_PROJECT)
        # Nobody can say which one is meant, so none is.
        assert tenancy.get_project(tx, "research") is None
        assert tenancy.get_project(tx, PROJECT).id == PROJECT
        assert tenancy.get_project(tx, PROJECT, organization_id=OTHER_ORG) is None
        assert tenancy.list_projects(tx, organization_id=OTHER_ORG) == [theirs]
        assert tenancy.list_projects(tx) == [mine, theirs]


def test_a_project_changes_only_as_it_was_seen(database):
    with database.read() as tx:
        seen = tenancy.get_project(tx, PROJECT)
    archived = database.write(
        lambda tx: tenancy.update_project(tx, seen, replace(seen, archived_at_ms=NOW_MS))
    )
    assert archived == replace(seen, archived_at_ms=NOW_MS, revision=2)
    with pytest.raises(StaleError, match=f"project {PROJECT} was changed or removed"):
        database.write(lambda tx: tenancy.update_project(tx, seen, replace(seen, name="late")))
    with database.read() as tx:
        assert tenancy.get_project(tx, PROJECT) == archived


def test_a_key_belongs_to_its_project_alone(database):
    mine = samples.api_key(1)
    theirs = samples.api_key(2, project_id=OTHER_PROJECT, role=Role.OPERATOR)
    database.write(lambda tx: [tenancy.insert_api_key(tx, key) for key in (mine, theirs)])
    with database.read() as tx:
        assert tenancy.get_api_key_for(tx, PROJECT, mine.id) == mine
        assert tenancy.get_api_key_for(tx, PROJECT, theirs.id) is None
        assert tenancy.get_api_key_for(tx, None, theirs.id) == theirs
        assert tenancy.list_api_keys(tx, PROJECT) == [mine]
        assert tenancy.list_api_keys(tx, None) == [mine, theirs]


def test_a_key_is_found_by_its_hash_with_its_project(database):
    key = samples.api_key(1, revoked_at_ms=NOW_MS)
    database.write(lambda tx: tenancy.insert_api_key(tx, key))
    with database.read() as tx:
        found = tenancy.find_api_key_by_hash(tx, key.key_hash)
        assert found == (key, samples.project(1, name="research"))
        assert tenancy.find_api_key_by_hash(tx, "unknown") is None


def test_usable_keys_are_neither_revoked_nor_expired_nor_of_an_archived_project(database):
    keys = [
        samples.api_key(1),
        samples.api_key(2, expires_at_ms=NOW_MS + 1),
        samples.api_key(3, expires_at_ms=NOW_MS),
        samples.api_key(4, revoked_at_ms=NOW_MS - 1),
        samples.api_key(5, project_id=OTHER_PROJECT),
    ]
    archived = samples.project(2, organization_id=OTHER_ORG, name="research")

    def write(tx):
        for key in keys:
            tenancy.insert_api_key(tx, key)
        tenancy.update_project(tx, archived, replace(archived, archived_at_ms=NOW_MS))

    database.write(write)
    mine = samples.project(1, name="research")
    with database.read() as tx:
        assert tenancy.list_usable_api_keys(tx, NOW_MS) == [(keys[0], mine), (keys[1], mine)]


def test_a_key_is_revoked_once(database):
    key = samples.api_key(1)
    database.write(lambda tx: tenancy.insert_api_key(tx, key))
    revoked = database.write(
        lambda tx: tenancy.update_api_key(tx, key, replace(key, revoked_at_ms=NOW_MS))
    )
    assert revoked == replace(key, revoked_at_ms=NOW_MS, revision=2)
    with pytest.raises(StaleError):
        database.write(lambda tx: tenancy.update_api_key(tx, key, key))
    with database.read() as tx:
        assert tenancy.get_api_key_for(tx, None, key.id) == revoked
