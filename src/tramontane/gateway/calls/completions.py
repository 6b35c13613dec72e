"""Completions, and Mistral's filling in the middle: plain text to go on with.

What llama.cpp does not do is done here: it does not echo the prompt, gives log-probabilities in
the form of chat, and fills in the middle on a path and in a form of its own (`infill`). A FIM
request without a suffix is a completion; its answer has the form of a chat in every case.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls import bounds, infill, logprobs
from tramontane.gateway.calls.call import Call, TextCall, as_object, choices_of
from tramontane.gateway.calls.engines import LLAMACPP
from tramontane.gateway.calls.forms import COMPLETIONS, CompletionForm, Endpoint, FimForm
from tramontane.gateway.calls.stream import StreamWatch
from tramontane.gateway.calls.usage import Tokens, read_reply, tokens_of

Piece = dict[str, Any]

_FIM_FIELDS: Final = FimForm.__struct_fields__


class CompletionCall(TextCall):
    """One or more prompts to go on with."""

    __slots__ = ()

    @property
    def prompt(self) -> object:
        """Return the text or the tokens to go on with, or a list of such."""
        return self._asked.prompt

    def __init__(
        self, endpoint: Endpoint, raw: bytes, asked: Any, value: dict[str, Any] | None = None
    ) -> None:
        super().__init__(endpoint, raw, asked, value)
        self.answers *= self.prompts

    @property
    def prompts(self) -> int:
        """Return how many prompts it holds."""
        return bounds.texts_in(self._asked.prompt)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``, and settle on the path."""
        fills_in = bool(self._asked.suffix) and route.engine == LLAMACPP
        self.upstream_path = infill.PATH if fills_in else self.endpoint.path
        return super().pieces_for(route)

    def _reshaped(self, value: dict[str, Any]) -> dict[str, Any]:
        return infill.body_of(value) if self.upstream_path == infill.PATH else value

    def watch(self, event_bytes_max: int) -> StreamWatch:
        """Return what looks at the engine's stream and turns it into the caller's."""
        return StreamWatch(
            self.form,
            lead=self.endpoint.lead,
            event_bytes_max=event_bytes_max,
            edit=None if self.is_split else self.edit(),
            has_running_usage=self._has_running_usage(),
        )

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None]:  # noqa: ARG002 - see embeddings
        """Return the reply in the form that was asked for, and its token counts."""
        edit = None if self.is_split else self.edit()
        if edit is None:
            return body, read_reply(body)[0]
        reply = _joined(edit(as_object(body)))
        return orjson.dumps(reply), tokens_of(reply.get("usage"))

    def edit(self) -> Callable[[Piece], list[Piece]] | None:
        """Return what turns llama.cpp's pieces into the caller's, if anything has to be turned."""
        asked: CompletionForm = self._asked
        if self._engine != LLAMACPP:
            return None
        if self.upstream_path == infill.PATH:
            return _Infilled(self.model)
        has_logprobs = asked.logprobs is not None and asked.logprobs is not False
        if not asked.echo and not has_logprobs:
            return None
        prompt = asked.prompt if asked.echo and isinstance(asked.prompt, str) else ""
        return _Edited(prompt, int(asked.logprobs or 0) if has_logprobs else None)


class FimCall(Call):
    """A gap to fill in, or without a suffix a text to go on with."""

    __slots__ = ("_inner",)

    @property
    def prompt(self) -> object:
        """Return the text before the gap."""
        return self._asked.prompt

    def __init__(
        self, endpoint: Endpoint, raw: bytes, asked: Any, value: dict[str, Any] | None = None
    ) -> None:
        super().__init__(endpoint, raw, asked, value)
        if self._value is not None:  # other fields would reach the engine without any bound
            own = {name: self._value[name] for name in _FIM_FIELDS if name in self._value}
            self._value, self._raw = own, orjson.dumps(own)
        kept = {name: getattr(asked, name) for name in FimForm.__struct_fields__}
        self._inner = CompletionCall(COMPLETIONS, self._raw, CompletionForm(**kept), self._value)

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that the answer can have."""
        return min(context_length, self._asked.max_tokens or context_length)

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None."""
        return self._inner.refused_by(route)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``, and settle on the path."""
        pieces = self._inner.pieces_for(route)
        self.upstream_path = self._inner.upstream_path
        return pieces

    def watch(self, event_bytes_max: int) -> StreamWatch:
        """Return what turns a stream of text into a stream of chat."""
        edit = _AsChat(self._inner.edit())
        return StreamWatch(self.form, lead=1, event_bytes_max=event_bytes_max, edit=edit)

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None]:  # noqa: ARG002 - see embeddings
        """Return the reply as a chat's, and its token counts."""
        reply = as_object(body)
        edit = self._inner.edit()
        text = _joined(edit(reply)) if edit is not None else reply
        return orjson.dumps(infill.chat_reply(text)), tokens_of(text.get("usage"))


class _Edited:
    """Puts the prompt before the first piece, and log-probabilities into the older form."""

    def __init__(self, prompt: str, alternatives: int | None) -> None:
        """``alternatives``: how many were asked for; None when no log-probabilities were."""
        self._prompt = prompt
        self._alternatives = alternatives
        self._offset = 0

    def __call__(self, piece: Piece) -> list[Piece]:
        for choice in choices_of(piece):
            choice["text"] = self._prompt + (choice.get("text") or "")
            self._prompt = ""
            if self._alternatives is not None:
                self._offset = logprobs.to_parallel_lists(choice, self._alternatives, self._offset)
        return [piece]


class _Infilled:
    """Turns what ``/infill`` says into pieces of a completion."""

    def __init__(self, model: str) -> None:
        created = int(time.time())
        self._base = {"id": f"cmpl-{secrets.token_hex(12)}", "created": created, "model": model}

    def __call__(self, native: Piece) -> list[Piece]:
        piece = infill.text_reply(native, self._base)
        usage = piece.pop("usage", None)
        if usage is None:
            return [piece]
        return [piece, {**self._base, "object": piece["object"], "choices": [], "usage": usage}]


class _AsChat:
    """Turns pieces of a completion into chunks of a chat."""

    def __init__(self, edit: Callable[[Piece], list[Piece]] | None) -> None:
        self._edit = edit
        self._is_first = True

    def __call__(self, piece: Piece) -> list[Piece]:
        pieces = [piece] if self._edit is None else self._edit(piece)
        chunks = [infill.chat_chunk(item) for item in pieces]
        if self._is_first:
            self._is_first = False
            chunks.insert(0, infill.first_chunk(chunks[0]))
        return chunks


def _joined(pieces: list[Piece]) -> Piece:
    """Return a whole reply of its pieces: the first one with the usage of the last."""
    return pieces[0] if len(pieces) == 1 else {**pieces[0], "usage": pieces[-1]["usage"]}
