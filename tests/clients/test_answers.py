"""Every client gets true answers, streamed or not, and usage that agrees with the usage events."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.conftest import RESTING, Results
from tests.support.client_envs import CLIENTS
from tests.support.system import DEMO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPENAI = [name for name in CLIENTS if name.startswith("openai")]
MISTRAL = [name for name in CLIENTS if name.startswith("mistralai")]
RELEASES = {
    "openai-1": "1.109.1",
    "openai-2": "2.30.0",
    "openai-3": "3.54.0",
    "mistralai-1": "1.12.4",
    "mistralai-2": "2.10.1",
    "mistralai-3": "3.7.0",
}

every_client = pytest.mark.parametrize("client", CLIENTS)
openai_clients = pytest.mark.parametrize("client", OPENAI)
mistral_clients = pytest.mark.parametrize("client", MISTRAL)

ResultsOf = Callable[[str], Results]
EventsOf = Callable[[str], dict[str, list[dict[str, Any]]]]


def chat_steps(client: str) -> list[str]:
    """Name the steps that ask the same question in different ways."""
    steps = ["chat", "chat stream", "async chat", "async chat stream", "mount"]
    if client in MISTRAL:
        return [*steps, "mount stream", "doubled prefix", "doubled prefix stream"]
    return [*steps, "chat stream without usage"]


@every_client
def test_it_is_the_release_that_we_say(client: str, results_of: ResultsOf) -> None:
    assert results_of(client)["version"] == RELEASES[client]


@every_client
def test_the_answer_is_true(client: str, results_of: ResultsOf) -> None:
    for step in chat_steps(client):
        seen = results_of(client)[step]
        assert "raised" not in seen, (step, seen)
        assert "sovereign AI cloud" in seen["text"], step
        assert seen["finish"] == "stop", step


@every_client
def test_streamed_and_whole_answers_are_the_same(client: str, results_of: ResultsOf) -> None:
    texts = {step: results_of(client)[step]["text"] for step in chat_steps(client)}
    assert len(set(texts.values())) == 1, texts


@every_client
def test_a_stream_arrives_in_pieces(client: str, results_of: ResultsOf) -> None:
    for step in ("chat stream", "async chat stream"):
        assert results_of(client)[step]["chunks"] > 10, step


@every_client
def test_usage_is_told_once_and_is_the_same_every_way(client: str, results_of: ResultsOf) -> None:
    told = {step: results_of(client)[step] for step in chat_steps(client)}
    if client in OPENAI:
        # Without stream_options the usage rides on the finish chunk, so that every client has it.
        assert told["chat stream without usage"]["usages"] <= 1
        told.pop("chat stream without usage")
    usages = [seen["usage"] for seen in told.values()]
    assert all(usage == usages[0] for usage in usages), told
    assert usages[0]["prompt"] > 0
    assert usages[0]["completion"] > 10
    assert usages[0]["total"] == usages[0]["prompt"] + usages[0]["completion"]
    for step, seen in told.items():
        assert seen.get("usages", 1) == 1, step


@mistral_clients
def test_a_mistral_stream_has_its_usage_on_the_finish_chunk(
    client: str, results_of: ResultsOf
) -> None:
    for step in ("chat stream", "async chat stream", "mount stream", "doubled prefix stream"):
        assert results_of(client)[step]["usage_on_finish"], step


@every_client
def test_every_answer_has_one_usage_event_with_its_numbers(
    client: str, results_of: ResultsOf, events_of: EventsOf
) -> None:
    told = {
        name: step
        for name, step in results_of(client).items()
        if isinstance(step, dict) and step.get("usage")
    }
    assert len(told) > 5
    for name, step in told.items():
        (event,) = events_of(client)[step["request_id"]]
        assert event["prompt_tokens"] == step["usage"]["prompt"], name
        assert event["completion_tokens"] == step["usage"]["completion"], name
        assert event["outcome"] == "completed", name
        assert event["token_source"] == "engine", name
        assert event["status"] == 200, name
        assert event["is_stream"] == ("stream" in name), name
        assert event["model"] == DEMO, name


@every_client
def test_a_refused_request_is_not_counted(
    client: str, results_of: ResultsOf, events_of: EventsOf
) -> None:
    events = events_of(client)
    for name, step in results_of(client).items():
        if isinstance(step, dict) and step.get("status") in (401, 404, 503):
            assert step["request_id"] not in events, name


@every_client
def test_models_are_listed(client: str, results_of: ResultsOf) -> None:
    for step in ("models", "async models"):
        assert {DEMO, RESTING} <= set(results_of(client)[step]), step


@every_client
def test_one_model_is_shown(client: str, results_of: ResultsOf) -> None:
    card = results_of(client)["model"]
    assert card["id"] == DEMO
    assert card["object"] == "model"
    assert card["created"] > 1_700_000_000
    if client in MISTRAL:
        assert card["kind"] == "BaseModelCard"
        assert card["capabilities"]["completion_chat"]
        assert card["max_context_length"] > 0


@openai_clients
def test_a_completion_continues_its_prompt(client: str, results_of: ResultsOf) -> None:
    whole, streamed = (results_of(client)[s] for s in ("completion", "completion stream"))
    assert whole["text"]
    assert streamed["text"] == whole["text"]
    assert streamed["usage"] == whole["usage"]


@every_client
def test_embeddings_are_the_same_however_they_travel(client: str, results_of: ResultsOf) -> None:
    seen = results_of(client)
    ways = ["embeddings float", "async embeddings"] + ["embeddings"] * (client in OPENAI)
    for way in ways:
        assert "raised" not in seen[way], seen[way]
        assert seen[way]["indexes"] == [0, 1]
        first, second = seen[way]["vectors"]
        assert len(first) == len(second) > 100
        assert first != second
        assert seen[way]["vectors"][0] == pytest.approx(seen[ways[0]]["vectors"][0], abs=1e-5)
        assert seen[way]["usage"]["prompt"] > 0
