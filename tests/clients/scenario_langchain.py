"""What a developer does with LangChain's two adapters: prints what came back.

Runs inside an environment of its own, so it may import nothing of ours. Prints one JSON object:
the name of each step -> what it returned, or the error that it raised. ``ChatMistralAI`` decodes
the wire by itself, without Mistral's client.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ["TRANSFORMERS_OFFLINE"] = "1"

from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

ASK = "What is Tramontane?"
SCHEMA = {
    "title": "city",
    "description": "A city.",
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "is_port": {"type": "boolean"}},
    "required": ["name", "is_port"],
    "additionalProperties": False,
}


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return city


def answer(message: Any) -> dict[str, Any]:
    text = message.content
    if isinstance(text, list):
        text = "".join(part.get("text", "") for part in text if isinstance(part, dict))
    return {
        "text": text,
        "usage": dict(message.usage_metadata or {}),
        "calls": [{"name": call["name"], "args": call["args"]} for call in message.tool_calls],
        "invalid_calls": len(message.invalid_tool_calls),
        "finish": message.response_metadata.get("finish_reason"),
    }


def added_up(chunks: Any) -> dict[str, Any]:
    whole, count = None, 0
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
        count += 1
    return answer(whole) | {"chunks": count}


async def twice_async(chat: Any) -> list[dict[str, Any]]:
    """Ask in one loop, which the adapter's connections belong to: whole, then as a stream."""
    whole = answer(await chat.ainvoke(ASK))
    return [whole, added_up([chunk async for chunk in chat.astream(ASK)])]


def attempt(results: dict[str, Any], name: str, step: Callable[[], Any]) -> None:
    try:
        results[name] = step()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        status = getattr(error, "status_code", None)
        response = getattr(error, "response", None)
        status = status or getattr(response, "status_code", None)
        results[name] = {"raised": type(error).__name__, "message": str(error), "status": status}


def run(name: str, chat: Any, results: dict[str, Any]) -> None:
    attempt(results, f"{name} chat", lambda: answer(chat.invoke(ASK)))
    attempt(results, f"{name} stream", lambda: added_up(chat.stream(ASK)))
    attempt(results, f"{name} async", lambda: asyncio.run(twice_async(chat)))
    with_tool = chat.bind_tools([weather], tool_choice="any")
    question = "What is the weather in Nice?"
    attempt(results, f"{name} tool", lambda: answer(with_tool.invoke(question)))
    attempt(results, f"{name} tool stream", lambda: added_up(with_tool.stream(question)))
    structured = chat.with_structured_output(SCHEMA, method="json_schema")
    attempt(results, f"{name} structured", lambda: structured.invoke("Name a city."))


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("base-url", "api-key", "model", "embedding-model"):
        parser.add_argument(f"--{option}", required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "versions": {name: version(name) for name in ("langchain-openai", "langchain-mistralai")}
    }
    openai: dict[str, Any] = {
        "model": options.model,
        "base_url": options.base_url,
        "api_key": options.api_key,
        "temperature": 0,
        "max_tokens": 160,
        "seed": 1,
        "stream_usage": True,
    }
    mistral: dict[str, Any] = {
        "model_name": options.model,
        "endpoint": options.base_url,
        "api_key": options.api_key,
        "temperature": 0,
        "max_tokens": 160,
        "random_seed": 1,
    }
    run("openai", ChatOpenAI(**openai), results)
    run("mistral", ChatMistralAI(**mistral), results)
    responses = ChatOpenAI(**{**openai, "seed": None}, use_responses_api=True)
    attempt(results, "responses chat", lambda: answer(responses.invoke(ASK)))
    attempt(results, "responses stream", lambda: added_up(responses.stream(ASK)))
    wrong = "tmt_wrong"
    attempt(
        results, "openai wrong key", lambda: ChatOpenAI(**{**openai, "api_key": wrong}).invoke(ASK)
    )
    attempt(
        results,
        "mistral wrong key",
        lambda: ChatMistralAI(**{**mistral, "api_key": wrong}, max_retries=1).invoke(ASK),
    )
    vectors = OpenAIEmbeddings(
        model=options.embedding_model,
        base_url=options.base_url,
        api_key=options.api_key,
        check_embedding_ctx_length=False,
    )
    texts = ["the north wind", "a quiet harbour"]
    attempt(results, "openai embeddings", lambda: vectors.embed_documents(texts))
    others = MistralAIEmbeddings(
        model=options.embedding_model, endpoint=options.base_url + "/", api_key=options.api_key
    )
    attempt(results, "mistral embeddings", lambda: others.embed_documents(texts))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
