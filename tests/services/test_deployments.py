"""Deployments: what is recorded, what is refused, and when the generation grows."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.cloud import Cloud
from tests.support.weights import write_gguf, write_safetensors
from tramontane.domain.deployment import DeploymentStatus, SpecChange
from tramontane.domain.launch import PriorityClass
from tramontane.domain.refusal import Code, RefusedError
from tramontane.domain.resources import Resources
from tramontane.services.deployments.wishes import DescribedDeployment, NewDeployment
from tramontane.store import deployments
from tramontane.store.db import NameTakenError

GIB = 1 << 30


def create(cloud: Cloud, name: str = "chat", **wish: object) -> DescribedDeployment:
    given = NewDeployment(**{"name": name, "model": "tramontane-demo"} | wish)
    return cloud.services.deployments.create(cloud.member, given)


def change(
    cloud: Cloud, ref: str = "chat", model: str | None = None, **fields: object
) -> DescribedDeployment:
    wanted = SpecChange(**fields)
    return cloud.services.deployments.change(cloud.member, ref, wanted, model=model)


def kinds(cloud: Cloud, deployment_id: str) -> list[str]:
    story = cloud.services.events.story(cloud.member, deployment_id, after=0, limit=100)
    return [event.kind for event in story.items]


def refusal(error: pytest.ExceptionInfo[RefusedError]) -> tuple[Code, str | None]:
    return error.value.refusal.code, error.value.refusal.param


def test_defaults(cloud: Cloud) -> None:
    woken = cloud.wakes
    made = create(cloud)
    spec = made.deployment.spec
    assert made.deployment.project_id == cloud.project.id
    assert made.deployment.status is DeploymentStatus.PENDING
    assert (made.deployment.generation, made.deployment.observed_generation) == (1, 0)
    assert (made.model_name, made.model_number) == ("tramontane-demo", 1)
    assert (spec.engine, spec.replicas, spec.parallel) == ("llamacpp", 1, 4)
    assert spec.context_length == 512, "the model has less than the default"
    assert kinds(cloud, made.deployment.id) == ["deployment.created"]
    assert cloud.wakes == woken + 1


def test_the_default_context_is_not_all_that_a_large_model_has(
    cloud: Cloud, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "long.gguf", llama__context_length=131_072)
    cloud.services.models.import_weights(cloud.operator, name="long", path=str(path))
    assert create(cloud, model="long").deployment.spec.context_length == 4_096
    assert create(cloud, "all", model="long", context_length=131_072)


def test_the_engine_follows_the_format(cloud: Cloud, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "folder")
    cloud.services.models.import_weights(cloud.operator, name="tensors", path=str(folder))
    assert create(cloud, model="tensors", devices=1).deployment.spec.engine == "vllm"
    with pytest.raises(RefusedError) as error:
        create(cloud, "wrong", model="tensors", engine="llamacpp")
    assert refusal(error) == (Code.UNSUPPORTED_BY_ENGINE, "engine")


def test_versions_are_named_by_number_and_by_id(cloud: Cloud, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "second.gguf", llama__context_length=256)
    entry = cloud.services.models.import_weights(
        cloud.operator, name="tramontane-demo", path=str(path)
    )
    assert create(cloud).model_number == 2
    assert create(cloud, "one", model="tramontane-demo:1").model_number == 1
    assert create(cloud, "two", model=entry.versions[1].id).model_number == 1
    assert create(cloud, "three", model=entry.model.id).model_number == 2
    for unknown in ("tramontane-demo:3", "other", "other:1", cloud.ids.new("mdv")):
        with pytest.raises(RefusedError) as error:
            create(cloud, "four", model=unknown)
        assert refusal(error) == (Code.MODEL_NOT_FOUND, "model")


@pytest.mark.parametrize(
    ("wish", "code", "param"),
    [
        ({"name": "Not-A-Label"}, Code.INVALID_VALUE, "name"),
        ({"name": "a\n"}, Code.INVALID_VALUE, "name"),
        ({"engine": "abacus"}, Code.INVALID_VALUE, "engine"),
        ({"context_length": 513}, Code.INVALID_VALUE, "context_length"),
        ({"engine_options": (("rm", "-rf"),)}, Code.UNSUPPORTED_BY_ENGINE, "engine_options"),
        ({"project": "no-such"}, Code.NOT_FOUND, "project"),
    ],
)
def test_what_is_refused(cloud: Cloud, wish: dict[str, object], code: Code, param: str) -> None:
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        create(cloud, **wish)
    assert refusal(error) == (code, param)


def test_a_name_is_taken_until_its_deployment_is_deleted(cloud: Cloud) -> None:
    first = create(cloud)
    with cloud.unchanged(), pytest.raises(NameTakenError, match="'chat' is taken"):
        create(cloud)
    cloud.services.deployments.delete(cloud.member, "chat", None)
    assert create(cloud).deployment.id != first.deployment.id


@pytest.mark.parametrize(
    ("wish", "param", "told"),
    [
        ({"memory_bytes": 20 * GIB}, "memory_bytes", "lacks 12.0 GiB memory"),
        ({"cpu_millicores": 9_500}, "cpu_millicores", "lacks 1.5 CPU"),
        ({"devices": 4}, "devices", "lacks 2 devices"),
    ],
)
def test_what_fits_no_node_is_told_by_how_much(
    cloud: Cloud, wish: dict[str, object], param: str, told: str
) -> None:
    cloud.add_node(Resources(1_000, GIB), "small")
    cloud.add_node()
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        create(cloud, **wish)
    assert refusal(error) == (Code.DOES_NOT_FIT, param)
    assert told in error.value.refusal.message


def test_a_cluster_is_named_by_name_or_id_and_a_wrong_one_gets_the_nearest(cloud: Cloud) -> None:
    node = cloud.add_node()
    spec = create(cloud, cluster=node.cluster_id, priority_class=PriorityClass.SPOT).deployment.spec
    assert (spec.cluster, spec.priority_class) == ("local", PriorityClass.SPOT)
    for wrong, hint in (("lokal", "did you mean local?"), ("alps", "leave it out")):
        with cloud.unchanged(), pytest.raises(RefusedError) as error:
            create(cloud, "other", cluster=wrong)
        assert refusal(error) == (Code.INVALID_VALUE, "cluster")
        assert hint in error.value.refusal.message
    before = change(cloud).deployment
    anywhere = change(cloud, cluster="").deployment
    assert (anywhere.spec.cluster, anywhere.generation) == (None, before.generation + 1)


def test_as_many_nodes_as_no_cluster_has_are_refused(cloud: Cloud, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "folder")
    cloud.services.models.import_weights(cloud.operator, name="tensors", path=str(folder))
    small = {"memory_bytes": 2 * GIB, "cpu_millicores": 1_000, "devices": 1, "model": "tensors"}
    for name in ("one", "two"):
        cloud.add_node(Resources(8_000, 8 * GIB, 2), name)
    cloud.add_node(Resources(500, 8 * GIB, 2), "three")
    assert create(cloud, nodes=2, **small).deployment.spec.nodes == 2
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        create(cloud, "wide", nodes=3, **small)
    assert refusal(error) == (Code.DOES_NOT_FIT, "nodes")
    assert "no rack has more than 2 such nodes" in error.value.refusal.message


def test_without_any_node_a_deployment_waits_for_one(cloud: Cloud) -> None:
    assert create(cloud, memory_bytes=20 * GIB).deployment.status is DeploymentStatus.PENDING


def test_scaling_keeps_the_generation(cloud: Cloud) -> None:
    made = create(cloud)
    scaled = change(cloud, replicas=3)
    assert scaled.deployment.spec.replicas == 3
    assert scaled.deployment.generation == made.deployment.generation
    assert kinds(cloud, made.deployment.id)[-1] == "deployment.scaled"


@pytest.mark.parametrize(
    "fields",
    [
        {"context_length": 256},
        {"parallel": 2},
        {"cpu_millicores": 500},
        {"memory_bytes": GIB},
        {"engine_options": (("mode", "chat"),)},
        {"parallel": 1, "replicas": 2},
        {"priority_class": PriorityClass.SPOT},
    ],
)
def test_any_other_change_is_a_new_generation(cloud: Cloud, fields: dict[str, object]) -> None:
    made = create(cloud)
    changed = change(cloud, **fields)
    assert changed.deployment.generation == made.deployment.generation + 1
    for name, value in fields.items():
        assert getattr(changed.deployment.spec, name) == value
    assert kinds(cloud, made.deployment.id)[-1] == "deployment.changed"


def test_a_change_to_what_is_wanted_already_changes_no_row(cloud: Cloud) -> None:
    create(cloud, engine_options=(("threads", "1"), ("mode", "chat")))
    with cloud.unchanged():
        change(cloud)
        change(cloud, replicas=1, parallel=4, context_length=512)
        change(cloud, model="tramontane-demo")
        change(cloud, engine_options=(("mode", "chat"), ("threads", "1")))


def test_a_correction_is_tried_at_once(cloud: Cloud) -> None:
    made = create(cloud).deployment

    def fail(tx: object) -> None:
        failed = replace(made, failures=7, retry_at_ms=cloud.clock.now_ms() + 60_000, reason="x")
        deployments.update(tx, made, failed)

    cloud.db.write(fail)
    assert change(cloud, replicas=2).deployment.failures == 7
    changed = change(cloud, parallel=1).deployment
    assert (changed.failures, changed.retry_at_ms, changed.reason) == (0, 0, None)


def test_a_refused_change_changes_nothing(cloud: Cloud) -> None:
    cloud.add_node()
    create(cloud)
    for fields in ({"context_length": 9_999}, {"memory_bytes": 20 * GIB}, {"model": "none"}):
        with cloud.unchanged(), pytest.raises(RefusedError):
            change(cloud, **fields)


def test_scaling_is_possible_after_the_model_or_the_node_is_gone(cloud: Cloud) -> None:
    create(cloud, memory_bytes=20 * GIB)
    cloud.add_node()
    assert change(cloud, replicas=0).deployment.spec.replicas == 0


def test_the_life_of_a_deleted_deployment(cloud: Cloud) -> None:
    made = create(cloud).deployment
    gone = cloud.services.deployments.delete(cloud.member, "chat", None).deployment
    assert gone.status is DeploymentStatus.STOPPING
    assert gone.deleted_at_ms == cloud.clock.now_ms()
    assert cloud.services.deployments.get(cloud.member, made.id, None).deployment == gone
    again = cloud.services.deployments.delete(cloud.member, made.id, None).deployment
    assert again == gone, "by its id it can be deleted again while it stops"
    with pytest.raises(RefusedError) as error:
        cloud.services.deployments.change(cloud.member, made.id, SpecChange(replicas=3))
    assert refusal(error) == (Code.CONFLICT, None)
    with pytest.raises(RefusedError) as error:
        cloud.services.deployments.delete(cloud.member, "chat", None)
    assert refusal(error)[0] is Code.NOT_FOUND
    cloud.stop(made.id)
    with pytest.raises(RefusedError) as error:
        cloud.services.deployments.get(cloud.member, made.id, None)
    assert refusal(error)[0] is Code.NOT_FOUND
    assert kinds(cloud, made.id) == ["deployment.created", "deployment.deleted"]


def test_an_operator_finds_a_name_in_its_own_project_first(cloud: Cloud) -> None:
    other = cloud.principal(cloud.new_member())
    theirs = cloud.services.deployments.create(other, NewDeployment("chat", "tramontane-demo"))
    only = cloud.services.deployments.create(other, NewDeployment("only", "tramontane-demo"))
    ours = create(cloud)
    find = cloud.services.deployments.get
    assert find(cloud.operator, "chat", None).deployment.id == ours.deployment.id
    assert find(cloud.operator, "chat", "other").deployment.id == theirs.deployment.id
    assert find(cloud.operator, "only", None).deployment.id == only.deployment.id
    assert find(cloud.operator, theirs.deployment.id, None).deployment.id == theirs.deployment.id


def test_a_member_neither_sees_nor_changes_another_project(cloud: Cloud) -> None:
    other = cloud.principal(cloud.new_member())
    ours = create(cloud).deployment
    service = cloud.services.deployments
    for ref in (ours.id, ours.name):
        for project in (None, cloud.project.name, cloud.project.id):
            for call in (
                partial(service.get, other, ref, project),
                partial(service.change, other, ref, SpecChange(replicas=9), project=project),
                partial(service.delete, other, ref, project),
            ):
                with cloud.unchanged(), pytest.raises(RefusedError) as error:
                    call()
                assert refusal(error)[0] is Code.NOT_FOUND
    assert service.list(other, project=None, after=None, limit=10).items == []
    with pytest.raises(RefusedError):
        service.list(other, project=cloud.project.id, after=None, limit=10)
    with pytest.raises(RefusedError):
        service.create(other, NewDeployment("x", "tramontane-demo", project=cloud.project.name))
