"""Autoscaling and canaries as they are asked for: what is recorded, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.test_deployments import change, create, kinds, refusal
from tests.support.cloud import Cloud
from tests.support.weights import write_gguf
from tramontane.domain.deployment import AutoscaleSpec, Canary, Deployment, Scale, SpecChange
from tramontane.domain.refusal import Code, RefusedError
from tramontane.services.deployments.wishes import CanaryWish, DescribedDeployment
from tramontane.store import deployments
from tramontane.store.db import NameTakenError

SPEC = AutoscaleSpec(0, 3, requests_in_flight=4)


def autoscale(cloud: Cloud, spec: AutoscaleSpec | None) -> Deployment:
    return cloud.services.deployments.autoscale(cloud.member, "chat", spec).deployment


def set_canary(cloud: Cloud, ref: str = "chat", **wish: object) -> DescribedDeployment:
    return cloud.services.canaries.set(cloud.member, ref, CanaryWish(**wish))


def end(cloud: Cloud, *, promote: bool) -> DescribedDeployment:
    return cloud.services.canaries.end(cloud.member, "chat", promote=promote)


def stored(cloud: Cloud, ref: str) -> Deployment | None:
    with cloud.db.read() as tx:
        return deployments.get_for(tx, cloud.project.id, ref)


@pytest.fixture
def second(cloud: Cloud, tmp_path: Path) -> str:
    """Return the name of another model that the engine serves."""
    path = write_gguf(tmp_path / "second.gguf", llama__context_length=1_024)
    cloud.services.models.import_weights(cloud.operator, name="second", path=str(path))
    return "second"


def test_it_begins_with_what_is_wanted_and_ends_with_what_is_wanted_then(cloud: Cloud) -> None:
    made = create(cloud, replicas=2).deployment
    now_ms = cloud.clock.now_ms()
    on = autoscale(cloud, SPEC)
    assert on.scale == Scale(2, now_ms, "it starts with 2")
    assert (on.generation, on.wanted_replicas, on.wakes) == (made.generation, 2, True)
    with cloud.unchanged():
        assert autoscale(cloud, SPEC) == on
    raised = replace(on, scale=Scale(3, now_ms, "9 requests in flight, 4 per replica"))
    cloud.db.write(lambda tx: deployments.update(tx, on, raised))
    off = autoscale(cloud, None)
    assert (off.scale, off.spec.autoscale, off.spec.replicas) == (None, None, 3)
    assert kinds(cloud, made.id) == [
        "deployment.created",
        "deployment.scales_itself",
        "deployment.scales_no_more",
    ]


def test_a_new_one_may_scale_from_the_start(cloud: Cloud) -> None:
    made = create(cloud, replicas=0, autoscale=SPEC).deployment
    assert (made.wanted_replicas, made.wakes) == (0, True)
    raised = create(cloud, "more", replicas=1, autoscale=replace(SPEC, replicas_min=2)).deployment
    assert raised.wanted_replicas == 2


def test_its_number_is_not_set_by_hand_meanwhile(cloud: Cloud) -> None:
    create(cloud, autoscale=SPEC)
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        change(cloud, replicas=2)
    assert refusal(error) == (Code.CONFLICT, "replicas")
    assert "from 0 to 3 replicas" in str(error.value)
    changed = change(cloud, parallel=2).deployment
    assert (changed.generation, changed.scale) == (2, stored(cloud, "chat").scale)


def test_bounds_the_wrong_way_round(cloud: Cloud) -> None:
    create(cloud)
    wrong = replace(SPEC, replicas_min=4)
    for call in (lambda: autoscale(cloud, wrong), lambda: create(cloud, "x", autoscale=wrong)):
        with cloud.unchanged(), pytest.raises(RefusedError) as error:
            call()
        assert refusal(error) == (Code.INVALID_VALUE, "autoscale.replicas_min")


def test_a_canary_differs_where_it_is_told_to(cloud: Cloud, second: str) -> None:
    stable = create(cloud, replicas=3, parallel=2, autoscale=SPEC).deployment
    woken = cloud.wakes
    described = set_canary(cloud, percent=10, model=second)
    assert cloud.wakes == woken + 1
    assert described.deployment == stable, "the stable one is as it was"
    canary = stored(cloud, "chat-canary")
    assert canary is not None
    assert described.canary == canary
    assert canary.canary == Canary(stable.id, 10)
    assert canary.spec.model_version_id != stable.spec.model_version_id
    assert (canary.spec.parallel, canary.spec.replicas, canary.spec.autoscale) == (2, 1, None)
    assert kinds(cloud, stable.id)[-1] == "deployment.canary_started"

    set_canary(cloud, percent=50)
    changed = stored(cloud, "chat-canary")
    assert changed is not None
    assert (changed.canary, changed.generation) == (Canary(stable.id, 50), 1)
    set_canary(cloud, change=SpecChange(parallel=8, replicas=2))
    changed = stored(cloud, "chat-canary")
    assert changed is not None
    assert (changed.canary, changed.generation, changed.spec.parallel) == (
        Canary(stable.id, 50),
        2,
        8,
    )
    assert kinds(cloud, canary.id) == [
        "deployment.created",
        "deployment.canary_changed",
        "deployment.changed",
    ]


def test_promoted_the_deployment_is_what_its_canary_was(cloud: Cloud, second: str) -> None:
    stable = create(cloud, replicas=3).deployment
    described = set_canary(cloud, percent=10, model=second, change=SpecChange(parallel=9))
    assert described.canary is not None
    promoted = end(cloud, promote=True)
    assert promoted.model_name == second
    assert promoted.canary is None
    it = promoted.deployment
    assert (it.id, it.generation, it.spec.parallel, it.spec.replicas) == (stable.id, 2, 9, 3)
    gone = stored(cloud, described.canary.id)
    assert gone is not None
    assert gone.deleted_at_ms is not None
    assert kinds(cloud, stable.id)[-1] == "deployment.promoted"


def test_aborted_all_is_as_before(cloud: Cloud, second: str) -> None:
    stable = create(cloud).deployment
    set_canary(cloud, percent=10, model=second)
    assert end(cloud, promote=False).deployment == stable
    assert stored(cloud, "chat-canary") is None
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        end(cloud, promote=False)
    assert refusal(error)[0] is Code.CONFLICT
    set_canary(cloud, percent=20)
    cloud.services.deployments.delete(cloud.member, "chat", None)
    assert stored(cloud, "chat-canary") is None, "it goes with its deployment"


def test_what_is_no_canary_is_refused(cloud: Cloud) -> None:
    create(cloud)
    create(cloud, "taken")
    refused = {
        "percent": {"model": "tramontane-demo"},
        "name": {"percent": 1, "name": "No Label"},
        None: {"percent": 1, "model": "nothing"},
    }
    for param, wish in refused.items():
        with cloud.unchanged(), pytest.raises(RefusedError) as error:
            set_canary(cloud, **wish)
        assert param in {None, refusal(error)[1]}
    with cloud.unchanged(), pytest.raises(NameTakenError):
        set_canary(cloud, percent=1, name="taken")
    set_canary(cloud, percent=1, name="other")
    for ref, wish in (("other", {"percent": 1}), ("chat", {"percent": 1, "name": "third"})):
        with cloud.unchanged(), pytest.raises(RefusedError) as error:
            set_canary(cloud, ref, **wish)
        assert refusal(error)[0] is Code.CONFLICT


def test_another_project_has_neither(cloud: Cloud) -> None:
    create(cloud)
    other = cloud.principal(cloud.new_member())
    service, canaries = cloud.services.deployments, cloud.services.canaries
    for call in (
        lambda: service.autoscale(other, "chat", SPEC),
        lambda: canaries.set(other, "chat", CanaryWish(percent=1)),
        lambda: canaries.end(other, "chat", promote=True),
    ):
        with cloud.unchanged(), pytest.raises(RefusedError) as error:
            call()
        assert refusal(error)[0] is Code.NOT_FOUND
