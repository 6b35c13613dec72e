"""Reads an engine's own token counts from a reply, without touching the rest of it."""

from typing import Any

import msgspec

Tokens = tuple[int, int, int]  # prompt, completion, cached


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    id: Any = None
    usage: _Usage | None = None


class _OddReply(msgspec.Struct):
    id: Any = None
    usage: Any = None


_DECODE_REPLY = msgspec.json.Decoder(_Reply).decode
_DECODE_ODD_REPLY = msgspec.json.Decoder(_OddReply).decode


class MalformedReplyError(Exception):
    """An engine's reply is not a JSON object."""


def tokens_of(usage: object) -> Tokens | None:
    """Return the counts of a ``usage`` object, or None when there are none to trust."""
    if not isinstance(usage, dict):
        return None
    try:
        return _counts(msgspec.convert(usage, _Usage))
    except msgspec.ValidationError:
        return None


def _counts(found: _Usage) -> Tokens | None:
    if found.prompt_tokens is None and found.completion_tokens is None:
        return None
    details = found.prompt_tokens_details
    cached = details.cached_tokens if details is not None else 0
    prompt, completion, cached = found.prompt_tokens or 0, found.completion_tokens or 0, cached or 0
    if prompt < 0 or completion < 0 or cached < 0:
        return None
    return prompt, completion, cached


def read_reply(body: bytes) -> tuple[Tokens | None, bool]:
    """Return the token counts of a whole reply and whether it has an ``id``.

    Raises `MalformedReplyError` when the reply is not a JSON object.
    """
    try:
        reply = _DECODE_REPLY(body)
    except msgspec.ValidationError:
        return _read_odd_reply(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedReplyError from error
    usage = reply.usage
    return (None if usage is None else _counts(usage)), reply.id is not None


def _read_odd_reply(body: bytes) -> tuple[Tokens | None, bool]:
    try:
        reply = _DECODE_ODD_REPLY(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedReplyError from error
    return tokens_of(reply.usage), reply.id is not None
