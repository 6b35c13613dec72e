"""Makes whole tool calls of the pieces that an engine streams (wire reference, S5).

OpenAI's own form is a first delta with the name and further ones with pieces of the arguments.
Mistral's clients refuse the further ones or lose the arguments without a word; one delta that
holds a whole call is read by all of them.
"""

import secrets
from typing import Any, Final

_LEFT_OUT: Final = frozenset({"choices", "usage", "timings"})


class GatheredCalls:
    """The calls of one stream. ``whole`` are the chunks of those that the last chunk completed.

    ``is_rest_empty``: nothing is left of the last chunk once its pieces were taken out.
    """

    __slots__ = ("_counts", "_open", "is_rest_empty", "whole")

    def __init__(self) -> None:
        self._open: dict[int, dict[str, Any]] = {}  # by the choice's index
        self._counts: dict[int, int] = {}
        self.whole: list[dict[str, Any]] = []
        self.is_rest_empty = False

    def take(self, chunk: dict[str, Any]) -> bool:
        """Take the pieces of calls out of ``chunk``; False when it needs no change."""
        self.whole = []
        self.is_rest_empty = False
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return False
        has_changed = False
        for choice in choices:
            if isinstance(choice, dict):
                has_changed |= self._take_choice(chunk, choice)
        if has_changed:
            self.is_rest_empty = not any(_says_something(choice) for choice in choices)
        return has_changed

    def _take_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> bool:
        number = choice.get("index")
        number = number if isinstance(number, int) else 0
        delta = choice.get("delta")
        pieces = delta.pop("tool_calls", None) if isinstance(delta, dict) else None
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                self._take_piece(chunk, number, piece)
        reason = choice.get("finish_reason")
        if reason:
            self._close(chunk, number)
            if self._counts.get(number) and reason == "stop":  # some engines say so
                choice["finish_reason"] = "tool_calls"
        return bool(pieces) or bool(self.whole)

    def _take_piece(self, chunk: dict[str, Any], number: int, piece: dict[str, Any]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        before = self._open.get(number)
        place = piece.get("index")
        is_new = before is None or (isinstance(place, int) and place != before["place"])
        if is_new:
            self._close(chunk, number)
            before = self._open[number] = {"place": place, "id": "", "name": "", "arguments": []}
        assert before is not None  # it is new or it was there
        before["id"] = before["id"] or piece.get("id") or ""
        before["name"] = before["name"] or function.get("name") or ""
        before["arguments"].append(_text_of(function.get("arguments")))

    def _close(self, chunk: dict[str, Any], number: int) -> None:
        """Write the choice's open call as a chunk of its own."""
        call = self._open.pop(number, None)
        if call is None:
            return
        place = self._counts.get(number, 0)
        self._counts[number] = place + 1
        arguments = "".join(call["arguments"]) or "{}"
        whole = {
            "index": place,
            "id": call["id"] or _fresh_id(),
            "type": "function",
            "function": {"name": call["name"], "arguments": arguments},
        }
        base = {name: value for name, value in chunk.items() if name not in _LEFT_OUT}
        choice = {"index": number, "delta": {"tool_calls": [whole]}, "finish_reason": None}
        self.whole.append({**base, "choices": [choice]})


def complete_whole(reply: dict[str, Any]) -> bool:
    """Give every call of a whole reply what clients need; False when nothing was missing."""
    has_changed = False
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        if not isinstance(calls, list) or not calls:
            continue
        if choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "tool_calls"
            has_changed = True
        for call in calls:
            if isinstance(call, dict) and not (call.get("id") and call.get("type")):
                call["id"] = call.get("id") or _fresh_id()
                call["type"] = "function"
                has_changed = True
    return has_changed


def _fresh_id() -> str:
    """Return nine letters and digits, the only form that templates of Mistral's models take."""
    return secrets.token_hex(5)[:9]


def _text_of(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else ""


def _says_something(choice: object) -> bool:
    if not isinstance(choice, dict):
        return True
    delta = choice.get("delta")
    values = delta.values() if isinstance(delta, dict) else ()
    return bool(choice.get("finish_reason")) or any(value not in (None, "", []) for value in values)
