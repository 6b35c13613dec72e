"""A chat stream made into named events, in the order that clients rely on (wire reference, S8).

    response.created, .in_progress,
    for each item: .output_item.added, .content_part.added, .output_text.delta ..., then
    .output_text.done, .content_part.done, .output_item.done
    (of a call: .function_call_arguments.delta ... and .done in place of the text),
    response.completed, .incomplete, or error and .failed

The last event is not in what `feed` and `end` return: `closing` gives it, once it is known whether
the response could be stored. There is no ``[DONE]``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from tramontane.gateway.calls.responses import reply
from tramontane.gateway.calls.responses.items import Item
from tramontane.gateway.calls.responses.reply import Ending, Skeleton
from tramontane.gateway.calls.responses.sse import Splitter, parse
from tramontane.gateway.calls.stream import StreamWatch, UsageForm
from tramontane.gateway.calls.usage import tokens_of


class _Open:
    """An item that is being written. ``kind`` is its type; ``key`` tells calls apart."""

    __slots__ = ("call_id", "id", "index", "key", "kind", "log_probs", "name", "text")

    def __init__(self, kind: str, item_id: str, index: int, key: object = None) -> None:
        self.kind = kind
        self.id = item_id
        self.index = index
        self.key = key
        self.text: list[str] = []
        self.log_probs: list[dict[str, Any]] = []
        self.call_id = ""
        self.name = ""

    def item(self, status: str) -> Item:
        """Return the item as it is now."""
        text = "".join(self.text)
        if self.kind == "reasoning":
            return reply.reasoning_item(self.id, text, status)
        if self.kind == "message":
            part = None if status == "in_progress" else reply.text_part(text, self.log_probs)
            return reply.message_item(self.id, part, status)
        return reply.call_item(self.id, self.call_id, self.name, text, status)


class ResponseStream(StreamWatch):
    """One stream's state; ``response`` is the object at its end."""

    __slots__ = (
        "_calls",
        "_ending",
        "_now_s",
        "_out",
        "_said",
        "_sequence",
        "_skeleton",
        "_splitter",
        "_usage",
        "response",
    )

    tail = b""

    def __init__(
        self, skeleton: Skeleton, now_s: Callable[[], int], *, event_bytes_max: int
    ) -> None:
        """``now_s`` tells the time in seconds since 1970."""
        super().__init__(UsageForm.NONE, lead=0, event_bytes_max=event_bytes_max)
        self._skeleton = skeleton
        self._now_s = now_s
        self._splitter = Splitter(event_bytes_max)
        self._sequence = 0
        self._said: list[_Open | Item] = []  # the output: items, the open ones as they are
        self._calls: dict[object, _Open] = {}
        self._ending: Ending | None = None
        self._usage: dict[str, Any] | None = None
        self._out: list[bytes] = []
        self.response: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what the engine sent and return the events that the client may have now."""
        for payload in self._splitter.feed(data):
            self._take(payload)
            if self.is_done or self.error is not None:
                break
        return self._flush()

    def end(self) -> bytes:
        """Return what is left when the engine has ended its reply."""
        rest = self._splitter.end()
        if rest and not self.is_done and self.error is None:
            self._take(rest)
        if self.has_finish:
            self._finish()
        return self._flush()

    def failure(self, error: dict[str, Any], model: str) -> bytes:  # noqa: ARG002 - chat needs it
        """Return the events that tell of a failure midway; the stream then ends in good order."""
        self._begin()
        self._ending = reply.failed(error["message"])
        self._close_all(self._ending)
        told = {name: error[name] for name in ("code", "message", "param")}
        self._say("error", told)
        self.response = self._final(self._ending)
        return self._flush()

    def closing(self, *, is_stored: bool) -> bytes:
        """Return the last event; call it once, after the stream's end or its failure."""
        response = self.response
        assert response is not None  # `end`, `feed` until done or `failure` came before
        response["store"] = is_stored
        self._say(f"response.{response['status']}", {"response": response})
        return self._flush()

    # Chunks.

    def _take(self, payload: bytes) -> None:
        if not payload:
            return  # a comment
        if payload == b"[DONE]":
            self._finish()
            self.is_done = True
            return
        chunk = parse(payload)
        if chunk is None:
            return
        if chunk.get("error"):
            self.error = _message_of(chunk["error"])
            return
        self._begin()
        self._note_counts(chunk)
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, dict):
            self._take_choice(choice)

    def _note_counts(self, chunk: Mapping[str, Any]) -> None:
        """Note the tokens that a chunk tells: of the prompt before its answer, and of it all."""
        self._note_progress(chunk.get("prompt_progress"))
        usage = chunk.get("usage")
        tokens = tokens_of(usage)
        if tokens is not None:
            if self.tokens is None:
                self.prompt = (tokens[0], tokens[2])
            self.tokens = tokens
            self._usage = reply.usage_of(usage)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        found = choice.get("delta")
        delta: dict[str, Any] = found if isinstance(found, dict) else {}
        reasoning, text = reply.reasoning_of(delta), reply.text_of(delta.get("content"))
        calls = reply.tool_calls_of(delta)
        if reasoning or text or calls:
            self.events += 1
        if reasoning:
            self._add_reasoning(reasoning)
        if text:
            self._add_text(text, reply.log_probs_of(choice))
        for call in calls:
            self._add_call(call)
        reason = choice.get("finish_reason")
        if reason:
            self.has_finish = True
            self._ending = reply.ending_of(reason)

    def _add_reasoning(self, text: str) -> None:
        item = self._open("reasoning", {"type": "reasoning_text", "text": ""})
        item.text.append(text)
        self._say_at("response.reasoning_text.delta", item, {"content_index": 0, "delta": text})

    def _add_text(self, text: str, log_probs: list[dict[str, Any]]) -> None:
        item = self._open("message", reply.text_part("", []))
        item.text.append(text)
        item.log_probs += log_probs
        delta = {"content_index": 0, "delta": text, "logprobs": log_probs}
        self._say_at("response.output_text.delta", item, delta)

    def _add_call(self, call: Mapping[str, Any]) -> None:
        function = reply.function_of(call)
        index = call.get("index")
        key = index if isinstance(index, int) else 0
        item = self._calls.get(key)
        if item is None:
            item = self._begin_call(key, call, function)
        else:
            item.name += reply.text_of(function.get("name"))
        arguments = reply.text_of(function.get("arguments"))
        if arguments:
            item.text.append(arguments)
            delta = {"delta": arguments}
            self._say_at("response.function_call_arguments.delta", item, delta)

    def _begin_call(
        self, key: object, call: Mapping[str, Any], function: Mapping[str, Any]
    ) -> _Open:
        self._close_texts("completed")
        place = len(self._said)
        item = _Open("function_call", self._skeleton.item_id("function_call", place), place, key)
        given = reply.text_of(call.get("id"))
        item.call_id = given or reply.call_id_of(self._skeleton, place)
        item.name = reply.text_of(function.get("name"))
        self._said.append(item)
        self._calls[key] = item
        self._say_item("response.output_item.added", item, "in_progress")
        return item

    # Items.

    def _open(self, kind: str, part: Item) -> _Open:
        """Return the item of that kind that is being written, begun if there is none."""
        last = self._said[-1] if self._said else None
        if isinstance(last, _Open) and last.kind == kind:
            return last
        self._close_texts("completed")
        place = len(self._said)
        item = _Open(kind, self._skeleton.item_id(kind, place), place)
        self._said.append(item)
        self._say_item("response.output_item.added", item, "in_progress")
        self._say_at("response.content_part.added", item, {"content_index": 0, "part": part})
        return item

    def _close_texts(self, status: str) -> None:
        """Close a text; calls stay open to the end, as their arguments may come in turns."""
        last = self._said[-1] if self._said else None
        if isinstance(last, _Open) and last.kind != "function_call":
            self._close(last, status)

    def _close_all(self, ending: Ending) -> None:
        for item in self._said:
            if isinstance(item, _Open):
                self._close(item, ending.item_status)

    def _close(self, item: _Open, status: str) -> None:
        text = "".join(item.text)
        if item.kind == "message":
            done = {"content_index": 0, "text": text, "logprobs": item.log_probs}
            self._say_at("response.output_text.done", item, done)
            part = {"content_index": 0, "part": reply.text_part(text, item.log_probs)}
            self._say_at("response.content_part.done", item, part)
        elif item.kind == "reasoning":
            done = {"content_index": 0, "text": text}
            self._say_at("response.reasoning_text.done", item, done)
            part = {"content_index": 0, "part": {"type": "reasoning_text", "text": text}}
            self._say_at("response.content_part.done", item, part)
        else:
            done = {"name": item.name, "arguments": text}
            self._say_at("response.function_call_arguments.done", item, done)
        self._say_item("response.output_item.done", item, status)
        self._said[item.index] = item.item(status)

    # The whole.

    def _begin(self) -> None:
        if self._sequence:
            return
        response = self._skeleton.response("in_progress")
        self._say("response.created", {"response": response})
        self._say("response.in_progress", {"response": response})

    def _finish(self) -> None:
        if self.response is not None:
            return
        self._begin()
        ending = self._ending or reply.ending_of(None)
        if not self._said:  # an answer without a text is an empty one
            self._open("message", reply.text_part("", []))
        self._close_all(ending)
        self.response = self._final(ending)

    def _final(self, ending: Ending) -> dict[str, Any]:
        output = [item for item in self._said if not isinstance(item, _Open)]
        return self._skeleton.response(
            ending.status,
            output,
            usage=self._usage,
            ending=ending,
            completed_at_s=self._now_s(),
        )

    def _say_item(self, name: str, item: _Open, status: str) -> None:
        self._say(name, {"output_index": item.index, "item": item.item(status)})

    def _say_at(self, name: str, item: _Open, fields: Mapping[str, Any]) -> None:
        self._say(name, {"item_id": item.id, "output_index": item.index, **fields})

    def _say(self, name: str, fields: Mapping[str, Any]) -> None:
        data = {"type": name, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data)))

    def _flush(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)


def _message_of(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else "the engine failed"
