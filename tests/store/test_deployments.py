import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.store import samples
from tests.store.samples import DEPLOYMENT, NOW_MS, OTHER_PROJECT, PROJECT
from tramontane.domain.deployment import DeploymentStatus
from tramontane.store import catalog, deployments
from tramontane.store.db import Database, NameTakenError, StaleError


@pytest.fixture(autouse=True)
def _populated(database: Database) -> None:
    samples.populate(database)


def test_every_field_comes_back(database):
    seen = samples.deployment(1)
    new = replace(
        seen,
        spec=samples.spec(replicas=7, cpu_millicores=500, memory_bytes=1 << 33, devices=1),
        generation=4,
        observed_generation=3,
        status=DeploymentStatus.DEGRADED,
        ready_replicas=2,
        reason="needs 1 device more",
        failures=5,
        retry_at_ms=NOW_MS + 9,
        start_ms=1_234,
    )
    stored = database.write(lambda tx: deployments.update(tx, seen, new))
    assert stored == replace(new, revision=2)
    with database.read() as tx:
        assert deployments.get_for(tx, PROJECT, DEPLOYMENT) == stored


def test_another_projects_deployment_is_not_found(database):
    with database.read() as tx:
        assert deployments.get_for(tx, OTHER_PROJECT, DEPLOYMENT) is None
        assert deployments.get_for(tx, OTHER_PROJECT, "deployment-1") is None
        assert deployments.get_for(tx, None, DEPLOYMENT) == samples.deployment(1)
        assert deployments.get_for(tx, None, "deployment-1") == samples.deployment(1)
        assert [each.id for each in deployments.list_for(tx, PROJECT)] == [DEPLOYMENT]
        assert len(deployments.list_for(tx, None)) == 2


def test_a_name_of_two_projects_means_none_to_who_sees_both(database):
    twin = samples.deployment(3, project_id=OTHER_PROJECT, name="deployment-1")
    database.write(lambda tx: deployments.insert(tx, twin))
    with database.read() as tx:
        assert deployments.get_for(tx, None, "deployment-1") is None
        assert deployments.get_for(tx, OTHER_PROJECT, "deployment-1") == twin


def test_a_name_is_taken_until_its_deployment_is_deleted(database):
    seen = samples.deployment(1)
    again = samples.deployment(3, name="deployment-1")
    with pytest.raises(NameTakenError, match="deployment name 'deployment-1' is taken"):
        database.write(lambda tx: deployments.insert(tx, again))
    deleted = replace(seen, deleted_at_ms=NOW_MS, status=DeploymentStatus.STOPPING)
    database.write(lambda tx: deployments.update(tx, seen, deleted))
    database.write(lambda tx: deployments.insert(tx, again))
    with database.read() as tx:
        assert deployments.get_for(tx, PROJECT, "deployment-1") == again
        assert deployments.get_for(tx, PROJECT, seen.id).deleted_at_ms == NOW_MS


def test_of_two_that_take_a_name_at_once_one_gets_it(database):
    told: list[str] = []

    def take(number: int, between: Callable[[], None] = lambda: None) -> None:
        wanted = samples.deployment(number, name="wanted")

        def write(tx):
            deployments.insert(tx, wanted)
            between()

        try:
            database.write(write)
            told.append("stored")
        except NameTakenError:
            told.append("taken")

    other = threading.Thread(target=take, args=(11,))

    def begin_other() -> None:
        other.start()
        other.join(0.3)

    take(10, begin_other)
    other.join()
    assert sorted(told) == ["stored", "taken"]
    with database.read() as tx:
        assert deployments.get_for(tx, PROJECT, "wanted").id == samples.make_id("dep", 10)


@pytest.mark.parametrize(
    ("status", "deleted_at_ms", "is_live"),
    [
        (DeploymentStatus.STOPPED, None, True),  # scaled to zero
        (DeploymentStatus.STOPPING, NOW_MS, True),  # replicas still drain
        (DeploymentStatus.STOPPED, NOW_MS, False),
    ],
)
def test_a_deployment_is_live_until_it_is_deleted_and_stopped(
    database, status, deleted_at_ms, is_live
):
    seen = samples.deployment(1)
    new = replace(seen, status=status, deleted_at_ms=deleted_at_ms)
    database.write(lambda tx: deployments.update(tx, seen, new))
    with database.read() as tx:
        assert (DEPLOYMENT in {each.id for each in deployments.list_live(tx)}) is is_live
        assert bool(deployments.list_for(tx, PROJECT)) is is_live


def test_a_stale_write_changes_nothing(database):
    seen = samples.deployment(1)
    database.write(lambda tx: deployments.update(tx, seen, replace(seen, ready_replicas=1)))
    with pytest.raises(StaleError, match=f"deployment {DEPLOYMENT}"):
        database.write(lambda tx: deployments.update(tx, seen, replace(seen, ready_replicas=2)))
    with database.read() as tx:
        stored = deployments.get_for(tx, PROJECT, DEPLOYMENT)
        assert (stored.ready_replicas, stored.revision) == (1, 2)


def test_a_model_is_used_while_a_live_deployment_wants_a_version_of_it(database):
    def write(tx):
        catalog.insert_model(tx, samples.model(1))
        catalog.insert_model_version(tx, samples.model_version(1))
        catalog.insert_model(tx, samples.model(2))

    database.write(write)
    with database.read() as tx:
        assert deployments.uses_model_version(tx, samples.model(1).id)
        assert not deployments.uses_model_version(tx, samples.model(2).id)

    def stop(tx):
        for seen in deployments.list_live(tx):
            gone = replace(seen, deleted_at_ms=NOW_MS, status=DeploymentStatus.STOPPED)
            deployments.update(tx, seen, gone)

    database.write(stop)
    with database.read() as tx:
        assert not deployments.uses_model_version(tx, samples.model(1).id)


def test_a_change_of_the_model_version_moves_the_use(database):
    seen = samples.deployment(1)
    moved = replace(seen, spec=samples.spec(model_version_id=samples.make_id("mdv", 9)))

    def write(tx):
        catalog.insert_model(tx, samples.model(2))
        version = samples.model_version(9, model_id=samples.model(2).id)
        catalog.insert_model_version(tx, version)
        deployments.update(tx, seen, moved)

    database.write(write)
    with database.read() as tx:
        assert deployments.uses_model_version(tx, samples.model(2).id)
