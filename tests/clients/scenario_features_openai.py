"""Tools, schemas, log-probabilities, several answers and vectors through the ``openai`` client.

Runs inside a client's own environment, so it may import nothing of ours; prints one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import openai

WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "w", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
ASK: dict[str, Any] = {"messages": WEATHER, "tools": TOOLS, "temperature": 0, "max_tokens": 100}


def calls_of(message: Any) -> list[list[str]]:
    return [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls]


def tools(client: Any, model: str) -> Any:
    reply = client.chat.completions.create(model=model, tool_choice="required", **ASK)
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


def tools_stream(client: Any, model: str) -> Any:
    """Add the pieces up as the client's documentation does."""
    named = {"type": "function", "function": {"name": "get_weather"}}
    calls: dict[int, list[str]] = {}
    finish = None
    for chunk in client.chat.completions.create(model=model, tool_choice=named, stream=True, **ASK):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, ["", "", ""])
                call[0] = piece.id or call[0]
                call[1] += piece.function.name or ""
                call[2] += piece.function.arguments or ""
    return {"calls": list(calls.values()), "finish": finish}


def schema(client: Any, model: str) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    reply = client.chat.completions.create(
        model=model, messages=HELLO, response_format=form, temperature=0, max_tokens=60
    )
    return json.loads(reply.choices[0].message.content)


def logprobs(client: Any, model: str) -> Any:
    reply = client.chat.completions.create(
        model=model, messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=2
    )
    return [
        [entry.token, entry.bytes, len(entry.top_logprobs)]
        for entry in reply.choices[0].logprobs.content
    ]


def several(client: Any, model: str) -> Any:
    texts = ["", "", ""]
    usages = []
    for chunk in client.chat.completions.create(
        model=model,
        messages=HELLO,
        n=3,
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.usage:
            usages.append(chunk.usage.completion_tokens)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return {"texts": texts, "usages": usages}


def completion(client: Any, model: str) -> Any:
    reply = client.completions.create(
        model=model, prompt=["What is", "Who"], logprobs=1, max_tokens=2, temperature=0
    )
    echo = client.completions.create(model=model, prompt="What is", echo=True, max_tokens=2)
    return {
        "texts": [choice.text for choice in reply.choices],
        "tokens": [choice.logprobs.tokens for choice in reply.choices],
        "echo": echo.choices[0].text,
    }


def vectors(client: Any, model: str) -> Any:
    reply = client.embeddings.create(model=model, input=["a", "b"], dimensions=8)
    return [item.embedding for item in reply.data]


def moderation(client: Any, model: str) -> Any:
    try:
        client.moderations.create(model=model, input="x")
    except openai.NotFoundError as error:
        return error.message
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key, max_retries=0)
    steps: tuple[Callable[[Any, str], Any], ...] = (
        tools,
        tools_stream,
        schema,
        logprobs,
        several,
        completion,
        vectors,
        moderation,
    )
    json.dump({step.__name__: step(client, options.model) for step in steps}, sys.stdout)


if __name__ == "__main__":
    main()
