"""One tenant's whole life on SQLite and on PostgreSQL: the services speak to both alike."""

import threading
from pathlib import Path

import pytest

from tests.support.cloud import Cloud
from tramontane.domain.deployment import SpecChange
from tramontane.domain.refusal import RefusedError
from tramontane.services.api_keys import NewApiKey
from tramontane.services.deployments.wishes import NewDeployment
from tramontane.store.db import NameTakenError

WRITERS = 6


def test_a_tenants_life(database_url: str, tmp_path: Path) -> None:
    cloud = Cloud(database_url, tmp_path)
    try:
        cloud.start()
        assert cloud.bootstrap().run().keys is None
        services = cloud.services
        member = cloud.principal(cloud.new_member())
        made = services.deployments.create(member, NewDeployment("chat", "tramontane-demo"))
        with pytest.raises(NameTakenError):
            services.deployments.create(member, NewDeployment("chat", "tramontane-demo"))
        changed = services.deployments.change(member, "chat", SpecChange(parallel=1, replicas=2))
        assert changed.deployment.generation == 2
        cloud.add_usage(cloud.usage_event(), cloud.usage_event(project_id=member.project_id))
        page = services.usage.events(member, project=None, after=None, limit=10)
        assert [event.project_id for event in page.items] == [member.project_id]
        sums = services.usage.totals(
            cloud.operator, project=None, from_ms=0, to_ms=1 << 42, group_by="none", limit=10
        )
        assert [total.requests for total in sums.items] == [2]
        services.deployments.delete(member, "chat", None)
        cloud.stop(made.deployment.id)
        services.projects.archive(cloud.operator, "other")
        with pytest.raises(RefusedError):
            services.deployments.create(
                cloud.operator, NewDeployment("x", "tramontane-demo", project="other")
            )
        story = services.events.story(cloud.operator, made.deployment.id, after=0, limit=10)
        assert [event.kind for event in story.items] == [
            "deployment.created",
            "deployment.changed",
            "deployment.deleted",
        ]
    finally:
        cloud.close()


def test_writers_at_the_same_time(database_url: str, tmp_path: Path) -> None:
    """One name is taken once, and no key gets lost."""
    cloud = Cloud(database_url, tmp_path)
    refused: list[Exception] = []

    def write(number: int) -> None:
        try:
            cloud.services.deployments.create(
                cloud.member, NewDeployment("chat", "tramontane-demo")
            )
        except NameTakenError as error:
            refused.append(error)
        cloud.services.api_keys.create(cloud.member, NewApiKey(name=f"k{number}"))

    try:
        cloud.start()
        threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == WRITERS - 1
        keys = cloud.services.api_keys.list(cloud.member, project=None, after=None, limit=100)
        assert {item.key.name for item in keys.items} >= {f"k{number}" for number in range(WRITERS)}
    finally:
        cloud.close()
