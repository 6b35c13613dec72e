"""What a developer does with the ``mistralai`` client, in every release: prints what came back.

Runs inside a client's own environment, so it may import nothing of ours. Prints one JSON object:
the name of each step -> what it returned, or the error that it raised. The client hides the
headers of a reply, so an HTTP client with a hook notes each ``x-request-id``.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

VERSION = version("mistralai")
GENERATION = int(VERSION.split(".")[0])
Mistral = import_module("mistralai" if GENERATION == 1 else "mistralai.client").Mistral
transport = import_module("httpx2" if GENERATION >= 3 else "httpx")

ASK = [{"role": "user", "content": "What is Tramontane?"}]
COUNT: dict[str, Any] = {"max_tokens": 160, "temperature": 0, "random_seed": 1}
TEXTS = ["the north wind", "a quiet harbour"]


def usage_of(usage: Any) -> Any:
    if usage is None:
        return None
    return {
        "prompt": usage.prompt_tokens,
        "completion": usage.completion_tokens,
        "total": usage.total_tokens,
    }


def told(error: Exception) -> dict[str, Any]:
    """Describe an error by what an application can see of it."""
    seen: dict[str, Any] = {"raised": type(error).__name__, "message": str(error)}
    seen["is"] = [kind.__name__ for kind in type(error).__mro__]
    if hasattr(error, "raw_response"):
        seen |= {"status": error.status_code, "body": error.body}
        seen["request_id"] = error.headers.get("x-request-id")
        seen["retry-after"] = error.headers.get("retry-after")
        detail = getattr(getattr(error, "data", None), "detail", None)
        seen["detail"] = detail and [{"loc": list(item.loc), "msg": item.msg} for item in detail]
    return seen


class Session:
    """One client, and the request id of its last reply."""

    def __init__(self, options: argparse.Namespace, **changes: Any) -> None:
        self.request_id: str | None = None
        self.http = transport.Client(event_hooks={"response": [self._note]}, timeout=60)
        self.http_async = transport.AsyncClient(
            event_hooks={"response": [self._note_async]}, timeout=60
        )
        settings = {
            "server_url": options.base_url.removesuffix("/v1"),
            "api_key": options.api_key,
            "client": self.http,
            "async_client": self.http_async,
        }
        self.client = Mistral(**(settings | changes))

    def _note(self, response: Any) -> None:
        self.request_id = response.headers.get("x-request-id")

    async def _note_async(self, response: Any) -> None:
        self._note(response)

    def close(self) -> None:
        self.http.close()

    def chat_result(self, reply: Any) -> dict[str, Any]:
        return {
            "text": reply.choices[0].message.content,
            "finish": reply.choices[0].finish_reason,
            "usage": usage_of(reply.usage),
            "model": reply.model,
            "request_id": self.request_id,
        }

    def embedding_result(self, reply: Any) -> dict[str, Any]:
        return {
            "vectors": [item.embedding for item in reply.data],
            "indexes": [item.index for item in reply.data],
            "usage": usage_of(reply.usage),
            "request_id": self.request_id,
        }


class Collected:
    """The chunks of one stream, added up as an application does."""

    def __init__(self) -> None:
        self.text = ""
        self.finish = None
        self.usages: list[Any] = []
        self.on_finish = False
        self.chunks = 0

    def add(self, event: Any) -> None:
        self.chunks += 1
        chunk = event.data
        if chunk.usage is not None:
            self.usages.append(usage_of(chunk.usage))
            self.on_finish = any(choice.finish_reason for choice in chunk.choices)
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish

    def result(self, request_id: str | None) -> dict[str, Any]:
        return {
            "text": self.text,
            "finish": self.finish,
            "usage": self.usages[-1] if self.usages else None,
            "usages": len(self.usages),
            "usage_on_finish": self.on_finish,
            "chunks": self.chunks,
            "request_id": request_id,
        }


def asked(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "messages": ASK} | COUNT | changes


def read(session: Session, model: str, **changes: Any) -> dict[str, Any]:
    seen = Collected()
    with session.client.chat.stream(**asked(model, **changes)) as stream:
        for event in stream:
            seen.add(event)
    return seen.result(session.request_id)


async def read_async(session: Session, model: str, **changes: Any) -> dict[str, Any]:
    seen = Collected()
    async with await session.client.chat.stream_async(**asked(model, **changes)) as stream:
        async for event in stream:
            seen.add(event)
    return seen.result(session.request_id)


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


def card(found: Any) -> dict[str, Any]:
    """Show a model card; ``kind`` tells whether the client knew what it was given."""
    return found.model_dump(mode="json") | {"kind": type(found).__name__}


def run_sync(options: argparse.Namespace, results: dict[str, Any]) -> None:
    model = options.model
    session = Session(options)
    client, chat = session.client, session.client.chat
    attempt(results, "models", lambda: [item.id for item in client.models.list().data])
    attempt(results, "model", lambda: card(client.models.retrieve(model_id=model)))
    attempt(results, "chat", lambda: session.chat_result(chat.complete(**asked(model))))
    attempt(results, "chat stream", lambda: read(session, model))
    if options.embedding_model:
        attempt(
            results,
            "embeddings float",
            lambda: session.embedding_result(
                client.embeddings.create(model=options.embedding_model, inputs=TEXTS)
            ),
        )
    attempt(results, "no such model", lambda: chat.complete(**asked("no-such-model")))
    attempt(results, "no such model stream", lambda: read(session, "no-such-model"))
    attempt(
        results, "no such model retrieve", lambda: client.models.retrieve(model_id="no-such-model")
    )
    attempt(results, "no messages", lambda: chat.complete(**asked(model, messages=[])))
    attempt(results, "no messages stream", lambda: read(session, model, messages=[]))
    attempt(results, "no replica", lambda: chat.complete(**asked(options.resting_model)))
    attempt(results, "no replica stream", lambda: read(session, options.resting_model))
    session.close()
    wrong = Session(options, api_key="tmt_wrong")
    attempt(results, "wrong key", lambda: wrong.client.chat.complete(**asked(model)))
    attempt(results, "wrong key stream", lambda: read(wrong, model))
    attempt(results, "wrong key models", wrong.client.models.list)
    wrong.close()
    root = options.base_url.removesuffix("/v1")
    run_mounted(options, results, "mount", f"{root}/mistral")
    run_mounted(options, results, "doubled prefix", f"{root}/v1")


def run_mounted(options: argparse.Namespace, results: dict[str, Any], name: str, url: str) -> None:
    session = Session(options, server_url=url)
    ask = session.client.chat.complete
    attempt(results, name, lambda: session.chat_result(ask(**asked(options.model))))
    attempt(results, f"{name} stream", lambda: read(session, options.model))
    session.close()


async def run_async(options: argparse.Namespace, results: dict[str, Any]) -> None:
    model = options.model
    session = Session(options)
    client = session.client

    async def models() -> Any:
        return [item.id for item in (await client.models.list_async()).data]

    async def chat() -> Any:
        return session.chat_result(await client.chat.complete_async(**asked(model)))

    async def embeddings() -> Any:
        reply = await client.embeddings.create_async(model=options.embedding_model, inputs=TEXTS)
        return session.embedding_result(reply)

    await attempt_async(results, "async models", models)
    await attempt_async(results, "async chat", chat)
    await attempt_async(results, "async chat stream", lambda: read_async(session, model))
    if options.embedding_model:
        await attempt_async(results, "async embeddings", embeddings)
    for name, changes in (
        ("async no such model", {"model": "no-such-model"}),
        ("async no messages", {"messages": []}),
        ("async no replica", {"model": options.resting_model}),
    ):
        step = partial(client.chat.complete_async, **(asked(model) | changes))
        await attempt_async(results, name, step)
    await session.http_async.aclose()
    wrong = Session(options, api_key="tmt_wrong")
    await attempt_async(
        results, "async wrong key", lambda: wrong.client.chat.complete_async(**asked(model))
    )
    await wrong.http_async.aclose()


def run_limited(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Ask once where the limit is used up: the server must say so, and when to come back."""
    session = Session(options)
    chat = session.client.chat
    attempt(results, "limited", lambda: chat.complete(**asked(options.model)))
    attempt(results, "limited stream", lambda: read(session, options.model))
    session.close()

    async def one() -> None:
        await attempt_async(
            results, "async limited", lambda: chat.complete_async(**asked(options.model))
        )
        await session.http_async.aclose()

    asyncio.run(one())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--base-url", "--api-key", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--resting-model", help="a deployment without a replica")
    parser.add_argument("--embedding-model", help="left out: no embeddings are asked for")
    parser.add_argument("--limited", action="store_true", help="only meet the limit")
    options = parser.parse_args()
    results: dict[str, Any] = {"version": VERSION}
    if options.limited:
        run_limited(options, results)
    else:
        run_sync(options, results)
        asyncio.run(run_async(options, results))
    # A step that should have failed leaves an object of the client: show that it did not.
    json.dump(results, sys.stdout, default=lambda found: {"unexpected": type(found).__name__})


if __name__ == "__main__":
    main()
