"""LangChain's two adapters and the Vercel AI SDK: answers, tools, structure, vectors, errors."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import client_envs, node_env
from tests.support.system import DEMO, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Results = dict[str, Any]

CHATS = [
    ("langchain", "openai"),
    ("langchain", "mistral"),
    ("vercel", "openai"),
    ("vercel", "responses"),
    ("vercel", "compatible"),
    ("vercel", "mistral"),
]
every_adapter = pytest.mark.parametrize(("framework", "adapter"), CHATS)


@pytest.fixture(scope="module")
def results_of(
    system: System, environments: dict[str, client_envs.ClientEnvironment]
) -> Callable[[str], Results]:
    """Return a function that runs a framework's scenario once."""

    @cache
    def run(framework: str) -> Results:
        if framework == "vercel":
            told = node_env.run(system.base_url, system.api_key, DEMO, DEMO, timeout_s=120)
        else:
            options = ["--base-url", system.base_url, "--api-key", system.api_key, "--model", DEMO]
            options += ["--embedding-model", DEMO]
            script = Path(__file__).with_name("scenario_langchain.py")
            told = environments["langchain"].run(script, *options, timeout_s=120)
        return json.loads(told)

    return run


def total(usage: dict[str, int]) -> tuple[int, int, int]:
    """Return input, output and total of either framework's way to name them."""
    names = ("input_tokens", "output_tokens", "total_tokens")
    others = ("inputTokens", "outputTokens", "totalTokens")
    first, second, both = (
        usage.get(a, usage.get(b, 0)) for a, b in zip(names, others, strict=True)
    )
    return first, second, both


@every_adapter
def test_streamed_and_whole_answers_are_the_same(
    framework: str, adapter: str, results_of: Callable[[str], Results]
) -> None:
    results = results_of(framework)
    whole, streamed = results[f"{adapter} chat"], results[f"{adapter} stream"]
    assert "sovereign AI cloud" in whole.get("text", ""), whole
    assert streamed.get("text") == whole["text"], streamed
    assert streamed["chunks"] > 10
    # LangChain adds usage up over the chunks: told twice, it would be doubled.
    assert total(streamed["usage"]) == total(whole["usage"])
    first, second, both = total(whole["usage"])
    assert first > 0
    assert second > 10
    assert both == first + second


@every_adapter
def test_a_forced_tool_is_called_with_its_arguments(
    framework: str, adapter: str, results_of: Callable[[str], Results]
) -> None:
    for step in (f"{adapter} tool", f"{adapter} tool stream"):
        seen = results_of(framework)[step]
        assert [call["name"] for call in seen.get("calls", [])] == ["weather"], (step, seen)
        assert list(seen["calls"][0]["args"]) == ["city"], step
        assert isinstance(seen["calls"][0]["args"]["city"], str)
        assert seen.get("invalid_calls", 0) == 0
        assert not seen.get("errors")


@every_adapter
def test_what_is_asked_for_by_schema_has_its_form(
    framework: str, adapter: str, results_of: Callable[[str], Results]
) -> None:
    seen = results_of(framework)[f"{adapter} structured"]
    assert set(seen) == {"name", "is_port"}, seen
    assert isinstance(seen["is_port"], bool)


@every_adapter
def test_a_wrong_key_is_told_as_such(
    framework: str, adapter: str, results_of: Callable[[str], Results]
) -> None:
    seen = results_of(framework)[f"{adapter} wrong key"]
    assert seen["status"] == 401
    assert "API key" in seen["message"]


@pytest.mark.parametrize("adapter", ["openai", "mistral"])
def test_langchain_reads_streams_asynchronously_too(
    adapter: str, results_of: Callable[[str], Results]
) -> None:
    results = results_of("langchain")
    for seen in results[f"{adapter} async"]:
        assert seen["text"] == results[f"{adapter} chat"]["text"]


def test_langchain_speaks_the_responses_api(results_of: Callable[[str], Results]) -> None:
    results = results_of("langchain")
    for step in ("responses chat", "responses stream"):
        assert results[step].get("text") == results["openai chat"]["text"], results[step]


def test_every_adapter_gets_the_same_vectors(results_of: Callable[[str], Results]) -> None:
    vectors = [
        results_of(framework)[f"{adapter} embeddings"]
        for framework, adapter in CHATS
        if adapter != "responses"
    ]
    for found in vectors:
        assert [len(vector) for vector in found] == [len(vector) for vector in vectors[0]]
        assert found[0][:5] == pytest.approx(vectors[0][0][:5], abs=1e-6)
        assert found[0] != found[1]
