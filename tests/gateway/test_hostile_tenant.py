"""A tenant with a valid key who wants more than his share: memory, turns, other tenants' things."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from tests.support.gates import World, make_key, make_limit
from tests.support.gateway import HMAC_KEY, MEMBER_KEY, OTHER_PROJECT, PROJECT, make_keys
from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import RouteKey
from tramontane.gateway.auth import Authenticator
from tramontane.gateway.control_plane.stored_link import StoredLink, Told
from tramontane.gateway.responses import stored


def test_one_key_in_many_spellings_takes_no_memory() -> None:
    auth = Authenticator(HMAC_KEY, make_keys())
    for spaces in range(1, 3_000):
        header = b"Bearer" + b" " * spaces + MEMBER_KEY.encode()
        assert isinstance(auth.identify(header, 0), RouteKey)
    assert sum(map(len, auth._cache)) < 20_000


class Slow:
    """A link to a control plane that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Told]] = []

    def ask(self, method: str, path: str, body: bytes | None, told: Told) -> None:
        self.asked.append((path, told))

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Running:
    """A response in the background."""

    id: str
    project_id: str
    has_begun: bool = True

    def stop(self) -> None:
        """Nothing runs."""


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def responses(slow: Slow) -> Iterator[stored.StoredResponses]:
    loop = asyncio.new_event_loop()
    made = stored.StoredResponses(loop, cast("StoredLink", slow), "gw", "holder")
    yield made
    made.close()
    loop.close()


def test_one_project_cannot_take_every_turn_at_what_is_stored(
    responses: stored.StoredResponses, slow: Slow
) -> None:
    found: list[Any] = []
    for number in range(stored.WAITING_MAX * 2):
        responses.history(PROJECT, f"resp_{number}", found.append)
    assert len(slow.asked) == stored.WAITING_PROJECT_MAX
    assert found == [stored.NOT_REACHED] * (stored.WAITING_MAX * 2 - stored.WAITING_PROJECT_MAX)
    responses.history(OTHER_PROJECT, "resp_x", found.append)
    assert len(slow.asked) == stored.WAITING_PROJECT_MAX + 1
    assert all("project_id=" in path for path, _ in slow.asked)
    for _, told in slow.asked[:]:
        told(200, b'{"items":[]}')
    assert not any(isinstance(item, Refusal) for item in found[-len(slow.asked) :])
    responses.look(PROJECT, found.append)  # and then there are turns again
    assert len(slow.asked) == stored.WAITING_PROJECT_MAX + 2


def test_one_project_cannot_run_all_that_may_run_in_the_background(
    responses: stored.StoredResponses,
) -> None:
    for number in range(stored.RUNS_PROJECT_MAX):
        assert responses.has_room(PROJECT)
        responses.begin(Running(f"resp_{number}", PROJECT))
    assert not responses.has_room(PROJECT)
    assert responses.has_room(OTHER_PROJECT)
    responses.drop(Running("resp_0", PROJECT))
    assert responses.has_room(PROJECT)


def test_a_crowd_of_one_project_takes_no_time_from_the_others() -> None:
    """Two thousand who wait for tokens were looked at whenever anybody's request ended."""
    tokens = make_limit(1, tokens_per_minute_max=3000)
    requests = make_limit(2, requests_per_minute_max=1_000_000, subject_id="prj_b")
    world = World(tokens, requests)
    gate = world.gate("a")
    crowds, others = make_key(tokens), make_key(requests, name="key_b", project="prj_b")
    first = gate.ask(crowds)
    world.run(0.02)
    assert first.is_in
    served = [gate.ask(others) for _ in range(50)]
    world.run(0.02)
    assert all(asked.is_in for asked in served)
    crowd = [gate.ask(crowds) for _ in range(1_000)]
    world.run(0.05)
    let_in = [asked for asked in crowd if asked.is_in]
    assert sum(asked.waits for asked in crowd) > 900
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1
        look()

    look, gate.admission._pass_soon = gate.admission._pass_soon, count
    for asked in served:
        asked.end()
        world.run(0)
    assert looks == 0
    for _ in range(200):  # nor does a crowd that grows look at itself each time
        crowd.append(gate.ask(crowds))
        world.run(0.0001)
    assert looks <= 5
    for asked in let_in[:5]:
        asked.end((1, 1, 0))  # and who waits is served once there is room
    world.run(0.02)
    assert sum(asked.is_in for asked in crowd) > len(let_in)
