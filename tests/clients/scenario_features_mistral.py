"""Tools, schemas, prefixes, filling in and vectors through the ``mistralai`` client.

Runs inside a client's own environment, so it may import nothing of ours; prints one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

GENERATION = int(version("mistralai").split(".")[0])
Mistral = import_module("mistralai" if GENERATION == 1 else "mistralai.client").Mistral

WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "w", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
ASK: dict[str, Any] = {"messages": WEATHER, "tools": TOOLS, "temperature": 0, "max_tokens": 100}


def calls_of(message: Any) -> list[list[str]]:
    return [
        [call.id, call.function.name, call.function.arguments] for call in message.tool_calls or []
    ]


def tools(client: Any, model: str) -> Any:
    reply = client.chat.complete(model=model, tool_choice="any", **ASK)
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


def tools_stream(client: Any, model: str) -> Any:
    calls: list[list[str]] = []
    finish = None
    with client.chat.stream(model=model, tool_choice="any", **ASK) as stream:
        for event in stream:
            for choice in event.data.choices:
                finish = choice.finish_reason or finish
                calls += calls_of(choice.delta)
    return {"calls": calls, "finish": finish}


def schema(client: Any, model: str) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    reply = client.chat.complete(
        model=model, messages=HELLO, response_format=form, temperature=0, max_tokens=60
    )
    return json.loads(reply.choices[0].message.content)


def prefix(client: Any, model: str) -> Any:
    start = {"role": "assistant", "content": "The", "prefix": True}
    reply = client.chat.complete(
        model=model, messages=[*HELLO, start], max_tokens=4, temperature=0, safe_prompt=True
    )
    return reply.choices[0].message.content


def several(client: Any, model: str) -> Any:
    reply = client.chat.complete(model=model, messages=HELLO, n=3, max_tokens=3)
    return {
        "texts": [choice.message.content for choice in reply.choices],
        "usages": [reply.usage.completion_tokens],
    }


def completion(client: Any, model: str) -> Any:
    """Without a suffix any model can."""
    reply = client.fim.complete(model=model, prompt="What is", max_tokens=2, temperature=0)
    text = ""
    with client.fim.stream(model=model, prompt="What is", max_tokens=2, temperature=0) as stream:
        for event in stream:
            text += event.data.choices[0].delta.content or ""
    return {"texts": [reply.choices[0].message.content, text]}


def no_filling_in(client: Any, model: str) -> Any:
    try:
        client.fim.complete(model=model, prompt="a", suffix="b")
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        return str(error)
    return None


def vectors(client: Any, model: str) -> Any:
    reply = client.embeddings.create(model=model, inputs=["a", "b"], output_dimension=8)
    return [item.embedding for item in reply.data]


def moderation(client: Any, model: str) -> Any:
    try:
        client.classifiers.moderate(model=model, inputs=["x"])
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        return str(error)
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    client = Mistral(server_url=options.base_url.removesuffix("/v1"), api_key=options.api_key)
    steps: tuple[Callable[[Any, str], Any], ...] = (
        tools,
        tools_stream,
        schema,
        prefix,
        several,
        completion,
        no_filling_in,
        vectors,
        moderation,
    )
    json.dump({step.__name__: step(client, options.model) for step in steps}, sys.stdout)


if __name__ == "__main__":
    main()
