"""What a developer does with ``mistralai`` 3.7's ``client.responses``: prints what came back.

Runs inside a client's own environment, so it may import nothing of ours. Prints one JSON object:
the name of each step -> what it returned, or the error that it raised.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

Mistral = import_module("mistralai.client").Mistral

ASK = "What is Tramontane?"
COUNT: dict[str, Any] = {"max_output_tokens": 160, "temperature": 0}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def shown(response: Any) -> dict[str, Any]:
    usage = response.usage
    texts = [p.text for i in response.output if i.type == "message" for p in i.content]
    return {
        "status": response.status,
        "text": "".join(texts),
        "types": [item.type for item in response.output],
        "usage": [usage.input_tokens, usage.output_tokens, usage.total_tokens],
        "written": usage.input_tokens_details.cache_write_tokens,
        "calls": [i.arguments for i in response.output if i.type == "function_call"],
    }


def streamed(client: Any, **asked: Any) -> dict[str, Any]:
    types, text, last = [], "", None
    with client.responses.create(stream=True, **asked) as events:
        for frame in events:
            assert frame.event == frame.data.type
            types.append(frame.event)
            if frame.event == "response.output_text.delta":
                text += frame.data.delta
            last = frame.data
    return shown(last.response) | {"events": types, "deltas": text}


def attempted(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        seen = {"raised": type(error).__name__, "message": str(error)}
        return seen | {"status": getattr(error, "status_code", None)}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    client = Mistral(
        server_url=options.base_url.removesuffix("/v1"), api_key=options.api_key, timeout_ms=60_000
    )
    asked: dict[str, Any] = {"model": options.model, "input": ASK, **COUNT}
    call = asked | {
        "input": "What is the weather in Paris?",
        "tools": [WEATHER],
        "tool_choice": "required",
    }
    create, count = client.responses.create, client.responses.count_input_tokens
    steps: dict[str, Callable[[], Any]] = {
        "whole": lambda: shown(create(**asked)),
        "streamed": lambda: streamed(client, **asked),
        "tool": lambda: shown(create(**call)),
        "tool streamed": lambda: streamed(client, **call),
        "counted": lambda: count(model=options.model, input=ASK).input_tokens,
        "no such model": lambda: create(**(asked | {"model": "no-such-model"})),
    }
    results = {name: attempted(step) for name, step in steps.items()}
    json.dump(results, sys.stdout, default=lambda found: {"unexpected": type(found).__name__})


if __name__ == "__main__":
    main()
