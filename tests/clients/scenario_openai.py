"""What a developer does with the ``openai`` client, in every release of it: prints what came back.

Runs inside a client's own environment, so it may import nothing of ours. Prints one JSON object:
the name of each step -> what it returned, or the error that it raised.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai

ASK = [{"role": "user", "content": "What is Tramontane?"}]
COUNT: dict[str, Any] = {"max_tokens": 160, "temperature": 0, "seed": 1}
TEXTS = ["the north wind", "a quiet harbour"]


def usage_of(usage: Any) -> Any:
    if usage is None:
        return None
    return {
        "prompt": usage.prompt_tokens,
        "completion": getattr(usage, "completion_tokens", 0),
        "total": usage.total_tokens,
    }


def told(error: Exception) -> dict[str, Any]:
    """Describe an error by what an application can see of it."""
    seen: dict[str, Any] = {"raised": type(error).__name__, "message": str(error)}
    seen["is"] = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, openai.APIError):
        seen |= {"code": error.code, "param": error.param, "error_type": error.type}
    if isinstance(error, openai.APIStatusError):
        seen["status"] = error.status_code
        seen["request_id"] = error.request_id
        for header in ("retry-after", "www-authenticate", "x-should-retry"):
            seen[header] = error.response.headers.get(header)
    return seen


def chat_result(reply: Any) -> dict[str, Any]:
    return {
        "text": reply.choices[0].message.content,
        "finish": reply.choices[0].finish_reason,
        "usage": usage_of(reply.usage),
        "model": reply.model,
        "request_id": reply._request_id,
    }


class Collected:
    """The chunks of one stream, added up as an application does."""

    def __init__(self, stream: Any) -> None:
        self.text = ""
        self.finish = None
        self.usages: list[Any] = []
        self.chunks = 0
        self.request_id = stream.response.headers.get("x-request-id")
        self.media_type = stream.response.headers.get("content-type", "")

    def add(self, chunk: Any) -> None:
        self.chunks += 1
        if chunk.usage is not None:
            self.usages.append(usage_of(chunk.usage))
        for choice in chunk.choices:
            piece = choice.text if hasattr(choice, "text") else choice.delta.content
            self.text += piece or ""
            self.finish = choice.finish_reason or self.finish

    def result(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "finish": self.finish,
            "usage": self.usages[-1] if self.usages else None,
            "usages": len(self.usages),
            "chunks": self.chunks,
            "request_id": self.request_id,
            "media_type": self.media_type,
        }


def embedding_result(reply: Any) -> dict[str, Any]:
    return {
        "vectors": [item.embedding for item in reply.data],
        "indexes": [item.index for item in reply.data],
        "usage": usage_of(reply.usage),
        "request_id": reply._request_id,
    }


def read(stream: Any) -> dict[str, Any]:
    seen = Collected(stream)
    for chunk in stream:
        seen.add(chunk)
    return seen.result()


async def read_async(stream: Any) -> dict[str, Any]:
    seen = Collected(stream)
    async for chunk in stream:
        seen.add(chunk)
    return seen.result()


def attempt(results: dict[str, Any], name: str, step: Callable[[], Any]) -> None:
    try:
        results[name] = step()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        results[name] = told(error)


async def attempt_async(
    results: dict[str, Any], name: str, step: Callable[[], Awaitable[Any]]
) -> None:
    try:
        results[name] = await step()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        results[name] = told(error)


def connect(kind: Any, options: argparse.Namespace, **changes: Any) -> Any:
    settings = {"base_url": options.base_url, "api_key": options.api_key}
    return kind(**(settings | {"max_retries": 0, "timeout": 60.0} | changes))


def run_sync(options: argparse.Namespace, results: dict[str, Any]) -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    with connect(openai.OpenAI, options) as client:
        chat, model = client.chat.completions, options.model
        attempt(results, "models", lambda: [card.id for card in client.models.list()])
        attempt(results, "model", lambda: client.models.retrieve(model).model_dump())
        attempt(
            results,
            "chat",
            lambda: chat_result(chat.create(model=model, messages=ASK, **COUNT)),
        )
        attempt(
            results,
            "chat stream",
            lambda: read(chat.create(model=model, messages=ASK, **COUNT, **streamed)),
        )
        attempt(
            results,
            "chat stream without usage",
            lambda: read(chat.create(model=model, messages=ASK, **COUNT, stream=True)),
        )
        attempt(results, "completion", lambda: completion(client, options))
        attempt(
            results,
            "completion stream",
            lambda: read(
                client.completions.create(model=model, prompt="Tramontane is", **COUNT, **streamed)
            ),
        )
        if options.embedding_model:
            embed = client.embeddings.create
            name = options.embedding_model
            attempt(results, "embeddings", lambda: embedding_result(embed(model=name, input=TEXTS)))
            attempt(
                results,
                "embeddings float",
                lambda: embedding_result(embed(model=name, input=TEXTS, encoding_format="float")),
            )
        run_errors(client, options, results)
    with connect(openai.OpenAI, options, api_key="tmt_wrong") as client:
        attempt(results, "wrong key", lambda: ask(client, model))
        attempt(results, "wrong key stream", lambda: read(ask(client, model, stream=True)))
        attempt(results, "wrong key models", lambda: list(client.models.list()))
    mount = options.base_url.removesuffix("/v1") + "/openai/v1"
    with connect(openai.OpenAI, options, base_url=mount) as client:
        attempt(results, "mount", lambda: chat_result(ask(client, model)))


def completion(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    reply = client.completions.create(model=options.model, prompt="Tramontane is", **COUNT)
    return {
        "text": reply.choices[0].text,
        "finish": reply.choices[0].finish_reason,
        "usage": usage_of(reply.usage),
        "request_id": reply._request_id,
    }


def ask(client: Any, model: str, **changes: Any) -> Any:
    return client.chat.completions.create(**({"model": model, "messages": ASK} | COUNT | changes))


def run_errors(client: Any, options: argparse.Namespace, results: dict[str, Any]) -> None:
    model = options.model
    attempt(results, "no such model", lambda: ask(client, "no-such-model"))
    attempt(results, "no such model stream", lambda: ask(client, "no-such-model", stream=True))
    attempt(results, "no such model retrieve", lambda: client.models.retrieve("no-such-model"))
    attempt(
        results,
        "no such model completion",
        lambda: client.completions.create(model="no-such-model", prompt="x"),
    )
    attempt(results, "bad type", lambda: ask(client, model, extra_body={"temperature": "hot"}))
    attempt(results, "no messages", lambda: ask(client, model, messages=[]))
    attempt(results, "no messages stream", lambda: ask(client, model, messages=[], stream=True))
    attempt(results, "no replica", lambda: ask(client, options.resting_model))
    attempt(results, "no replica stream", lambda: ask(client, options.resting_model, stream=True))


async def run_async(options: argparse.Namespace, results: dict[str, Any]) -> None:
    model = options.model

    async def chat() -> Any:
        return chat_result(await ask(client, model))

    async def chat_stream() -> Any:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        return await read_async(await ask(client, model, **streamed))

    async def models() -> Any:
        return [card.id async for card in client.models.list()]

    async def embeddings() -> Any:
        reply = await client.embeddings.create(model=options.embedding_model, input=TEXTS)
        return embedding_result(reply)

    async with connect(openai.AsyncOpenAI, options) as client:
        await attempt_async(results, "async models", models)
        await attempt_async(results, "async chat", chat)
        await attempt_async(results, "async chat stream", chat_stream)
        if options.embedding_model:
            await attempt_async(results, "async embeddings", embeddings)
        unknown = "no-such-model"
        await attempt_async(results, "async no such model", lambda: ask(client, unknown))
        await attempt_async(results, "async no messages", lambda: ask(client, model, messages=[]))
        resting = options.resting_model
        await attempt_async(results, "async no replica", lambda: ask(client, resting))
    async with connect(openai.AsyncOpenAI, options, api_key="tmt_wrong") as client:
        await attempt_async(results, "async wrong key", lambda: ask(client, model))


def run_limited(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Ask once where the limit is used up: the server must say so, and when to come back."""
    with connect(openai.OpenAI, options) as client:
        attempt(results, "limited", lambda: ask(client, options.model))
        attempt(results, "limited stream", lambda: ask(client, options.model, stream=True))

    async def both() -> None:
        async with connect(openai.AsyncOpenAI, options) as client:
            await attempt_async(results, "async limited", lambda: ask(client, options.model))

    asyncio.run(both())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--resting-model", help="a deployment without a replica")
    parser.add_argument("--embedding-model", help="left out: no embeddings are asked for")
    parser.add_argument("--limited", action="store_true", help="only meet the limit")
    options = parser.parse_args()
    results: dict[str, Any] = {"version": openai.__version__}
    if options.limited:
        run_limited(options, results)
    else:
        run_sync(options, results)
        asyncio.run(run_async(options, results))
    # A step that should have failed leaves an object of the client: show that it did not.
    json.dump(results, sys.stdout, default=lambda found: {"unexpected": type(found).__name__})


if __name__ == "__main__":
    main()
