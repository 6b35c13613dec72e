"""One running system and one run of each client's scenario, shared by the tests of this room."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support import client_envs
from tests.support.outside_engine import outside_engine
from tests.support.system import DEMO, System, running
from tests.support.waiting import until

RESTING: Final = "resting"  # a deployment that nothing serves

# The client's name -> the step's name -> what it gave.
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def environments() -> dict[str, client_envs.ClientEnvironment]:
    return client_envs.make_all()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("clients") / "home") as running_system:
        model = running_system.deployment()["model"]
        running_system.cloud(
            "POST", "/deployments", json={"name": RESTING, "model": model, "replicas": 0}
        )
        until(lambda: RESTING in _served(running_system), "the resting deployment's route")
        yield running_system


@pytest.fixture(scope="session")
def results_of(
    system: System, environments: dict[str, client_envs.ClientEnvironment]
) -> Callable[[str], Results]:
    """Return a function that runs a client's scenario once and gives what each step gave."""

    @cache
    def run(client: str) -> Results:
        options = ["--base-url", system.base_url, "--api-key", system.api_key, "--model", DEMO]
        options += ["--resting-model", RESTING, "--embedding-model", DEMO]
        return json.loads(environments[client].run(scenario(client), *options, timeout_s=120))

    return run


@pytest.fixture(scope="session")
def limited_results_of(
    system: System,
    environments: dict[str, client_envs.ClientEnvironment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Results]]:
    """Return a function that runs a client with a key that has all in flight that it may."""
    made = system.cloud("POST", "/api-keys", json={"name": "one", "requests_in_flight_max": 1})
    key = made["key"]

    @cache
    def run(client: str) -> Results:
        options = ["--base-url", system.base_url, "--api-key", key, "--model", DEMO, "--limited"]
        return json.loads(environments[client].run(scenario(client), *options, timeout_s=120))

    folder = tmp_path_factory.mktemp("outside")
    endless = {"model": "outside", "stream": True, "max_tokens": 1_000_000}
    endless["messages"] = [{"role": "user", "content": "Never stop."}]
    headers = {"authorization": f"Bearer {key}"}
    with (
        outside_engine(system, folder, "outside"),
        httpx.Client(base_url=system.base_url, headers=headers, trust_env=False) as client,
        client.stream("POST", "/chat/completions", json=endless) as reply,
    ):
        assert reply.status_code == 200
        yield run


@pytest.fixture(scope="session")
def events_of(
    system: System, results_of: Callable[[str], Results]
) -> Callable[[str], dict[str, list[dict[str, Any]]]]:
    """Return a function that gives a client's usage events by request id, once all are in."""

    @cache
    def read(client: str) -> dict[str, list[dict[str, Any]]]:
        served = {
            step["request_id"]
            for step in results_of(client).values()
            if isinstance(step, dict) and step.get("usage") and step["request_id"]
        }

        def arrived() -> dict[str, list[dict[str, Any]]] | None:
            found: dict[str, list[dict[str, Any]]] = {}
            for event in system.usage_events():
                found.setdefault(event["request_id"], []).append(event)
            return found if served <= found.keys() else None

        return until(arrived, f"the usage events of {client}", 20)

    return read


def scenario(client: str) -> Path:
    """Return the script of the client's family."""
    family = "openai" if client.startswith("openai") else "mistral"
    return Path(__file__).with_name(f"scenario_{family}.py")


def _served(system: System) -> list[str]:
    headers = {"authorization": f"Bearer {system.api_key}"}
    reply = httpx.get(f"{system.base_url}/models", headers=headers, trust_env=False)
    return [card["id"] for card in reply.json()["data"]]
