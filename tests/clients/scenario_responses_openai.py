"""What a developer does with ``openai``'s ``client.responses``, in every release: prints it.

Runs inside a client's own environment, so it may import nothing of ours. Prints one JSON object:
the name of each step -> what it returned, or the error that it raised.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

ASK = "What is Tramontane?"
COUNT: dict[str, Any] = {"max_output_tokens": 160, "temperature": 0}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    name: str
    age: int


def told(error: Exception) -> dict[str, Any]:
    seen: dict[str, Any] = {"raised": type(error).__name__, "message": str(error)}
    if isinstance(error, openai.APIStatusError):
        seen |= {"status": error.status_code, "code": error.code, "param": error.param}
    return seen


def shown(response: Any) -> dict[str, Any]:
    usage = response.usage
    return {
        "id": response.id,
        "status": response.status,
        "text": response.output_text,
        "types": [item.type for item in response.output],
        "model": response.model,
        "usage": usage and [usage.input_tokens, usage.output_tokens, usage.total_tokens],
        "cached": usage and usage.input_tokens_details.cached_tokens,
        "reasoning": usage and usage.output_tokens_details.reasoning_tokens,
        "details": response.incomplete_details and response.incomplete_details.reason,
        "previous": response.previous_response_id,
        "store": getattr(response, "store", None),
        "request_id": getattr(response, "_request_id", None),
    }


def streamed(client: openai.OpenAI, model: str) -> dict[str, Any]:
    types, text, last = [], "", None
    for event in client.responses.create(model=model, input=ASK, stream=True, **COUNT):
        types.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    return shown(last.response) | {"events": types, "deltas": text}


def helped(client: openai.OpenAI, **asked: Any) -> dict[str, Any]:
    snapshots: list[str] = []
    with client.responses.stream(**COUNT, **asked) as stream:
        for event in stream:
            if event.type in {
                "response.output_text.delta",
                "response.function_call_arguments.delta",
            }:
                snapshots.append(event.snapshot)
        final = stream.get_final_response()
    parsed = getattr(final, "output_parsed", None)
    return shown(final) | {
        "snapshot": snapshots[-1] if snapshots else "",
        "parsed": parsed and parsed.model_dump(),
        "arguments": [i.arguments for i in final.output if i.type == "function_call"],
    }


def parsed(client: openai.OpenAI, model: str) -> dict[str, Any]:
    response = client.responses.parse(
        model=model, input="Give me a JSON object with name and age", text_format=Person, **COUNT
    )
    return shown(response) | {"parsed": response.output_parsed.model_dump()}


def talked(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Call a tool and answer it, in one conversation that the server remembers."""
    asked: dict[str, Any] = {"model": model, "tools": [WEATHER], **COUNT}
    first = client.responses.create(
        input="What is the weather in Paris?", tool_choice="required", **asked
    )
    (call,) = (item for item in first.output if item.type == "function_call")
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(input=[output], previous_response_id=first.id, **asked)
    history: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    history += [item.model_dump(exclude_none=True) for item in first.output]
    by_hand = client.responses.create(input=[*history, output], store=False, **asked)
    return {
        "name": call.name,
        "arguments": json.loads(call.arguments),
        "first": shown(first),
        "second": shown(second),
        "by hand": shown(by_hand),
    }


def kept(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Store, read, list and delete."""
    given: Any = [{"role": "user", "content": "Hello"}, {"role": "user", "content": ASK}]
    made = client.responses.create(
        model=model, input=given, store=True, metadata={"a": "b"}, **COUNT
    )
    read = client.responses.retrieve(made.id)
    items = list(client.responses.input_items.list(made.id, limit=1, order="asc"))
    client.responses.delete(made.id)
    gone = attempted(lambda: client.responses.retrieve(made.id))
    return {
        "made": shown(made),
        "read": shown(read),
        "metadata": read.metadata,
        "items": [item.content[0].text for item in items],
        "gone": gone,
    }


def in_background(client: openai.OpenAI, model: str) -> dict[str, Any]:
    made = client.responses.create(model=model, input=ASK, background=True, **COUNT)
    first = shown(made)
    deadline = time.monotonic() + 60
    while made.status in {"queued", "in_progress"} and time.monotonic() < deadline:
        time.sleep(0.05)
        made = client.responses.retrieve(made.id)
    return {"first": first, "last": shown(made)}


def cancelled(client: openai.OpenAI, model: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_output_tokens": 1_500}
    for _ in range(5):
        made = client.responses.create(input="Tell me a very long story", background=True, **asked)
        told_of = client.responses.cancel(made.id)
        if told_of.status != "completed":  # on a busy machine it may be told by then
            break
    return {"cancelled": shown(told_of), "after": shown(client.responses.retrieve(made.id))}


def counted(client: openai.OpenAI, model: str) -> Any:
    found = client.responses.input_tokens.count(model=model, input=ASK, instructions="Be brief.")
    made = client.responses.create(model=model, input=ASK, instructions="Be brief.", **COUNT)
    return {"counted": found.input_tokens, "used": made.usage.input_tokens}


def attempted(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        return told(error)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    model = options.model
    client = openai.OpenAI(
        base_url=options.base_url, api_key=options.api_key, max_retries=0, timeout=60.0
    )
    create = client.responses.create
    steps: dict[str, Callable[[], Any]] = {
        "whole": lambda: shown(create(model=model, input=ASK, **COUNT)),
        "streamed": lambda: streamed(client, model),
        "helped": lambda: helped(client, model=model, input=ASK),
        "helped parse": lambda: helped(
            client,
            model=model,
            input="Give me a JSON object with name and age",
            text_format=Person,
        ),
        "helped tool": lambda: helped(
            client,
            model=model,
            input="What is the weather in Paris?",
            tools=[WEATHER],
            tool_choice="required",
        ),
        "parsed": lambda: parsed(client, model),
        "short": lambda: shown(create(model=model, input=ASK, max_output_tokens=3)),
        "talked": lambda: talked(client, model),
        "kept": lambda: kept(client, model),
        "background": lambda: in_background(client, model),
        "cancelled": lambda: cancelled(client, model),
        "no such model": lambda: create(model="no-such-model", input=ASK),
        "no such response": lambda: client.responses.retrieve("resp_" + "a" * 20),
        "no input": lambda: create(model=model, input=[]),
        "web search": lambda: create(model=model, input=ASK, tools=[{"type": "web_search"}]),
    }
    if hasattr(client.responses, "input_tokens"):
        steps["counted"] = lambda: counted(client, model)
    results = {name: attempted(step) for name, step in steps.items()}
    json.dump(results, sys.stdout, default=lambda found: {"unexpected": type(found).__name__})


if __name__ == "__main__":
    main()
