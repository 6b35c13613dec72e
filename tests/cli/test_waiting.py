"""``--wait``: what counts as done, what is told meanwhile, and how it ends otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import CommandLine, Reply, Request, Stub, error
from tramontane.cli import waiting

Serve = Callable[[Any], Stub]
Against = Callable[[Stub], CommandLine]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PAUSE_S", 0.005)


def deployment(status: str = "ready", ready: int = 1, wanted: int = 1, **more: Any) -> Reply:
    """Return a deployment whose wanted generation 2 is acted on, unless ``more`` says otherwise."""
    fields = {"object": "deployment", "id": "dep_1", "name": "chat", "status": status}
    fields |= {"ready_replicas": ready, "replicas": wanted, "reason": None}
    return Reply(fields | {"generation": 2, "observed_generation": 2} | more)


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """Answer with one reply after the other, then with the last for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_it_waits_until_all_replicas_serve_the_wanted_generation(
    serve: Serve, against: Against
) -> None:
    stub = serve(
        in_turn(
            deployment("ready", 1, 3),  # as it was before the reconciler looked
            deployment("degraded", 2, 3, reason="1 replica starts"),
            deployment("ready", 3, 3, observed_generation=1),
            error(502, "upstream_error", "the control plane restarts"),
            deployment("ready", 3, 3),
        )
    )
    run = against(stub)("deployments", "scale", "chat", "3", "--wait")
    assert run.code == 0
    assert "ready_replicas       3" in run.out
    assert run.err.splitlines() == [
        "chat: ready; 1 of 3 replicas ready",
        "chat: degraded; 1 replica starts",
        "chat: ready; 3 of 3 replicas ready",
        "chat: unknown; the control plane restarts",
    ]
    asked = [(request.method, request.path) for request in stub.requests[1:]]
    assert set(asked) == {("GET", "/cloud/v1/deployments/dep_1")}


def test_what_scales_by_itself_is_waited_for_as_the_demand_says(
    serve: Serve, against: Against
) -> None:
    stub = serve(
        in_turn(
            deployment("degraded", 1, 1, wanted_replicas=2),
            deployment("ready", 2, 1, wanted_replicas=2),
        )
    )
    run = against(stub)("deployments", "update", "chat", "--parallel", "2", "--wait")
    assert run.code == 0
    assert run.err.splitlines() == ["chat: degraded; 1 of 2 replicas ready"]


@pytest.mark.parametrize(
    "line", ["create chat --model m", "update chat --parallel 2", "scale chat 1"]
)
def test_what_is_done_already_is_not_waited_for(serve: Serve, against: Against, line: str) -> None:
    stub = serve(deployment())
    run = against(stub)("deployments", *line.split(), "--wait")
    assert (run.code, run.err, len(stub.requests)) == (0, "", 1)


def test_scaled_to_nothing_is_done_when_nothing_runs(serve: Serve, against: Against) -> None:
    stub = serve(in_turn(deployment("ready", 0, 0), deployment("stopped", 0, 0)))
    assert against(stub)("deployments", "scale", "chat", "0", "--wait").code == 0
    assert len(stub.requests) == 2


@pytest.mark.parametrize("end", [deployment("stopped", 0, 0), error(404, "not_found", "gone")])
def test_deleted_is_done_when_nothing_runs(serve: Serve, against: Against, end: Reply) -> None:
    first = deployment("ready", 1, 0, deleted_at_ms=5)
    stub = serve(in_turn(first, deployment("stopping", 1, 0, deleted_at_ms=5), end))
    run = against(stub)("deployments", "delete", "chat", "--wait")
    assert run.code == 0, run.err
    assert "status               stopped" in run.out
    assert [request.method for request in stub.requests] == ["DELETE", "GET", "GET"]


def test_without_wait_it_answers_at_once(serve: Serve, against: Against) -> None:
    stub = serve(deployment("pending", 0, 1))
    assert against(stub)("deployments", "create", "chat", "--model", "m").code == 0
    assert len(stub.requests) == 1


@pytest.mark.slow
def test_it_gives_up_in_time_and_says_what_is_missing(serve: Serve, against: Against) -> None:
    stub = serve(deployment("pending", 0, 1, reason="no node has 4 devices"))
    run = against(stub)("deployments", "scale", "chat", "1", "--wait", "--timeout", "1")
    assert run.code == 6
    last = run.err.splitlines()[-1]
    assert last.startswith("tramontane: error: gave up after 1 s waiting for chat to be ready")
    assert "no node has 4 devices" in last
    assert "tramontane story dep_1" in last


def test_ctrl_c_stops_waiting_and_says_that_the_change_goes_on(
    serve: Serve, against: Against, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting.time, "sleep", interrupted)
    run = against(serve(deployment("pending", 0, 1)))("deployments", "scale", "chat", "1", "--wait")
    assert run.code == 130
    assert "stopped waiting; the change goes on" in run.err


@pytest.mark.parametrize(
    "end", [error(404, "not_found", "gone"), deployment("stopping", 0, 1, deleted_at_ms=5)]
)
def test_a_deployment_deleted_meanwhile_ends_the_wait(
    serve: Serve, against: Against, end: Reply
) -> None:
    stub = serve(in_turn(deployment("pending", 0, 1), end))
    run = against(stub)("deployments", "scale", "chat", "1", "--wait")
    assert run.code == 3
    assert "chat was deleted meanwhile; `tramontane story dep_1`" in run.err


def test_a_key_revoked_meanwhile_ends_the_wait(serve: Serve, against: Against) -> None:
    stub = serve(in_turn(deployment("pending", 0, 1), error(401, "invalid_api_key", "revoked")))
    run = against(stub)("deployments", "scale", "chat", "1", "--wait")
    assert run.code == 4
    assert "revoked" in run.err
