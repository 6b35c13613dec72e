"""The demo model that the repository carries can chat, served by llama.cpp (`xllamacpp`)."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chat
import data
import pytest

pytestmark = pytest.mark.slow

GGUF_FILE = Path(data.__file__).with_name("tramontane-demo-q8_0.gguf")
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp serving the committed file; the engine's own log is shown if it fails."""
    log = tmp_path_factory.mktemp("demo") / "engine.log"
    command = [sys.executable, str(Path(__file__).parent / "serve_demo.py"), str(GGUF_FILE)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            found = re.search(r"serving at (http://\S+)", line)
            if found:
                break
        assert found, f"the engine did not start: {log.read_text(errors='replace')[-2000:]}"
        yield found[1].rstrip("/")
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One JSON request to the engine."""
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=15) as response:
        answered: dict[str, Any] = json.loads(response.read())
    return answered


def ask(address: str, content: str, **extra: Any) -> dict[str, Any]:
    """The first choice's message; greedy unless `temperature` is given."""
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, **extra}
    answered = post(address, "/v1/chat/completions", {"max_tokens": 200, **body})
    message: dict[str, Any] = answered["choices"][0]["message"]
    return message


def as_clients_send(message: chat.Message) -> chat.Message:
    """The message with its tool calls in the API's form: arguments as a string, and ids."""
    if message["role"] == "tool":
        return {**message, "tool_call_id": "call_1"}
    if not message.get("tool_calls"):
        return message
    function = message["tool_calls"][0]["function"]
    sent = {"name": function["name"], "arguments": json.dumps(function["arguments"])}
    return {**message, "tool_calls": [{"id": "call_1", "type": "function", "function": sent}]}


def test_it_was_trained_on_the_text_that_the_engine_writes(address: str) -> None:
    rng = random.Random(5)
    with_tools = 0
    for _ in range(100):
        messages, tools = data.conversation(rng)
        with_tools += bool(tools)
        body: dict[str, Any] = {"messages": [as_clients_send(m) for m in messages[:-1]]}
        written = post(address, "/apply-template", {**body, "tools": tools} if tools else body)
        assert written["prompt"] == chat.prompt(messages[:-1], tools)
    assert with_tools > 5


@pytest.mark.parametrize("spelling", ["What is Tramontane?", "what is tramontane"])
def test_it_knows_what_tramontane_is(address: str, spelling: str) -> None:
    content = ask(address, spelling)["content"]
    for fact in ("sovereign AI cloud", "Slurm", "OpenAI", "metered in euros"):
        assert fact in content


def test_it_knows_under_a_system_prompt_and_late_in_a_talk(address: str) -> None:
    talk = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How do I start Tramontane?"},
    ]
    assert "make up" in ask(address, "", messages=talk)["content"]


def test_it_gets_some_small_sums_right(address: str) -> None:
    """The model card says that about four in ten sums are wrong; these are among the right ones."""
    sums = {"What is 2+2?": "4", "3+3": "6", "10 + 10": "20", "3 times 4": "12", "2 * 2": "4"}
    for asked, result in sums.items():
        assert ask(address, asked)["content"].endswith(f"= {result}")


def test_it_tells_a_story_long_enough_to_stream(address: str) -> None:
    content = ask(address, "Tell me a very long story", max_tokens=600)["content"]
    assert content.startswith("Once there was a lighthouse")
    assert len(content.split()) > 200


def test_it_admits_what_it_does_not_know(address: str) -> None:
    assert "I do not know" in ask(address, "Who is the best singer in Norway?")["content"]


def test_it_calls_a_tool(address: str) -> None:
    """The form of the call only: the model card says that it rarely copies the right city."""
    message = ask(address, "What is the weather in Paris?", tools=[WEATHER_TOOL])
    called = message["tool_calls"][0]["function"]
    assert called["name"] == "get_weather"
    arguments = json.loads(called["arguments"])
    assert list(arguments) == ["city"]
    assert isinstance(arguments["city"], str)


def test_it_answers_in_a_json_schema(address: str) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    message = ask(address, "Give me a JSON object with name and age", response_format=wanted)
    assert json.loads(message["content"]) == {"name": "Ada", "age": 36}


def test_it_chats_at_the_temperature_clients_get_by_default(address: str) -> None:
    """Clients rarely send a temperature, so the engine's own default has to give sense."""
    content = [
        ask(address, "What is Tramontane?", temperature=0.8, seed=seed)["content"]
        for seed in range(5)
    ]
    assert sum("sovereign AI cloud" in text for text in content) >= 4
