"""Tools, schemas, several answers, filling in and vectors, as every client reads them."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_answers import MISTRAL, OPENAI, every_client
from tests.support.client_envs import ClientEnvironment
from tests.support.system import DEMO, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Features = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def features_of(system: System, environments: dict[str, ClientEnvironment]) -> Features:
    @cache
    def run(client: str) -> dict[str, Any]:
        family = "openai" if client in OPENAI else "mistral"
        script = Path(__file__).with_name(f"scenario_features_{family}.py")
        options = ["--base-url", system.base_url, "--api-key", system.api_key, "--model", DEMO]
        return json.loads(environments[client].run(script, *options, timeout_s=120))

    return run


@every_client
def test_calls_are_whole_streamed_or_not(client: str, features_of: Features) -> None:
    for step in ("tools", "tools_stream"):
        found = features_of(client)[step]
        ((call_id, name, arguments),) = found["calls"]
        assert call_id
        assert name == "get_weather"
        assert json.loads(arguments).keys() == {"city"}
        assert found["finish"] == "tool_calls"


@every_client
def test_a_schema_holds(client: str, features_of: Features) -> None:
    assert features_of(client)["schema"].keys() == {"city"}


@every_client
def test_several_answers_come_apart(client: str, features_of: Features) -> None:
    found = features_of(client)["several"]
    assert len(found["texts"]) == 3
    assert all(found["texts"])
    assert found["usages"] == [9]


@every_client
def test_vectors_have_the_length_that_was_asked_for(client: str, features_of: Features) -> None:
    found = features_of(client)["vectors"]
    assert [len(vector) for vector in found] == [8, 8]
    assert math.hypot(*found[0]) == pytest.approx(1, abs=1e-5)


@every_client
def test_nothing_moderates_and_says_so(client: str, features_of: Features) -> None:
    assert "is part of the API, but no model" in features_of(client)["moderation"]


@pytest.mark.parametrize("client", OPENAI)
def test_completions_echo_and_tell_log_probabilities(client: str, features_of: Features) -> None:
    found = features_of(client)["completion"]
    assert len(found["texts"]) == 2
    assert all(found["texts"])
    assert ["".join(tokens) for tokens in found["tokens"]] == found["texts"]
    assert found["echo"].startswith("What is")
    assert len(found["echo"]) > len("What is")
    assert len(features_of(client)["logprobs"]) == 2
    for token, raw, alternatives in features_of(client)["logprobs"]:
        assert bytes(raw).decode() == token
        assert alternatives == 2


@pytest.mark.parametrize("client", MISTRAL)
def test_mistrals_own_fields_and_paths(client: str, features_of: Features) -> None:
    found = features_of(client)
    assert found["prefix"].startswith("The ")
    whole, streamed = found["completion"]["texts"]
    assert whole == streamed
    assert whole
    assert "filling in the middle" in found["no_filling_in"]
