"""The first start: every step once, whatever was interrupted, and never again what was deleted."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import Cloud
from tramontane.domain.refusal import RefusedError
from tramontane.domain.tenancy import Role
from tramontane.services.api_keys import NewApiKey
from tramontane.services.bootstrap import Bootstrap
from tramontane.store import deployments, events, tenancy


def counts(cloud: Cloud) -> dict[str, int]:
    nouns = ("organizations", "projects", "api_keys", "models", "model_versions", "deployments")
    return {noun: len(rows) for noun, rows in cloud.tables().items() if noun in nouns}


ONE_OF_EACH = {
    "api_keys": 2,
    "deployments": 1,
    "model_versions": 1,
    "models": 1,
    "organizations": 1,
    "projects": 1,
}


def test_what_a_first_start_makes(empty_cloud: Cloud) -> None:
    cloud = empty_cloud
    cloud.start()
    assert counts(cloud) == ONE_OF_EACH
    assert cloud.operator.role is Role.OPERATOR
    assert cloud.member.role is Role.MEMBER
    assert cloud.operator.project_id == cloud.member.project_id == cloud.project.id
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None)
    assert demo.model_name == "tramontane-demo"
    assert demo.deployment.spec.replicas == 1
    assert demo.deployment.spec.engine == "llamacpp"
    assert cloud.wakes == 1


def test_a_second_run_changes_nothing_and_shows_no_key(cloud: Cloud) -> None:
    with cloud.unchanged():
        again = cloud.bootstrap().run()
    assert again.keys is None
    assert again.project == cloud.project
    assert again.organization == cloud.organization


def test_what_was_deleted_does_not_come_back(cloud: Cloud) -> None:
    cloud.services.deployments.delete(cloud.operator, "tramontane-demo", None)
    cloud.services.api_keys.revoke(cloud.operator, cloud.member.key_id)
    with cloud.unchanged():
        cloud.bootstrap().run()


class Crash(BaseException):
    """The process was killed."""


def crash_after(cloud: Cloud, writes: int) -> None:
    """Let the database of the cloud fail after ``writes`` further commits."""
    real = cloud.db.write
    left = [writes]

    def write(fn: Any) -> Any:
        if not left[0]:
            raise Crash
        left[0] -= 1
        return real(fn)

    cloud.db.write = write


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_kill_between_any_two_steps_is_made_good(empty_cloud: Cloud, writes: int) -> None:
    real = empty_cloud.db.write
    crash_after(empty_cloud, writes)
    with pytest.raises(Crash):
        empty_cloud.bootstrap().run()
    empty_cloud.db.write = real
    again = empty_cloud.bootstrap().run()
    assert counts(empty_cloud) == ONE_OF_EACH
    assert (again.keys is None) == (writes > 0), "texts are shown when the keys are made"
    with empty_cloud.unchanged():
        empty_cloud.bootstrap().run()


def test_lost_keys_are_made_anew(cloud: Cloud) -> None:
    fresh = cloud.bootstrap().reissue_keys()
    assert {fresh.api_key, fresh.admin_key}.isdisjoint({cloud.keys.api_key, cloud.keys.admin_key})
    for lost in (cloud.keys.api_key, cloud.keys.admin_key):
        with pytest.raises(RefusedError, match="revoked"):
            cloud.principal(lost)
    assert cloud.principal(fresh.api_key).role is Role.MEMBER
    assert cloud.principal(fresh.admin_key).role is Role.OPERATOR
    with cloud.db.read() as tx:
        told = [event.kind for event in events.recent(tx, cloud.project.id)]
    assert told.count("api_key.revoked") == 2


def test_other_keys_survive_a_new_issue(cloud: Cloud) -> None:
    _, text = cloud.services.api_keys.create(cloud.member, NewApiKey(name="mine"))
    cloud.bootstrap().reissue_keys()
    assert cloud.principal(text).role is Role.MEMBER


def test_a_bad_demo_model_says_so_and_the_next_run_goes_on(
    empty_cloud: Cloud, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    with pytest.raises(RefusedError, match=r"bad\.gguf"):
        empty_cloud.bootstrap(bad).run()
    empty_cloud.bootstrap().run()
    assert counts(empty_cloud) == ONE_OF_EACH


def test_without_a_demo_model_nothing_is_deployed(empty_cloud: Cloud) -> None:
    bootstrap = Bootstrap(
        db=empty_cloud.db,
        clock=empty_cloud.clock,
        ids=empty_cloud.ids,
        hmac_key=bytes(32),
        models=empty_cloud.services.models,
        deployments=empty_cloud.services.deployments,
        demo_model=None,
    )
    assert bootstrap.run().keys is not None
    with empty_cloud.db.read() as tx:
        assert deployments.list_live(tx) == []
        assert len(tenancy.list_api_keys(tx, None)) == 2
    assert bootstrap.run().keys is None
