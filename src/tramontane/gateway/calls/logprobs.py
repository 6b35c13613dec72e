"""Log-probabilities in the forms that clients read (wire reference, 2.9).

Chat: each entry holds ``token``, ``logprob``, ``bytes``, ``top_logprobs`` and, for Mistral's
clients, ``token_id``. Completions: OpenAI's older form of parallel lists, which llama.cpp does not
know: it answers both endpoints in the form of chat.
"""

from typing import Any, Final

UNKNOWN_ID: Final = -1  # an engine that does not tell the token's number


def complete(choice: dict[str, Any]) -> None:
    """Give every entry of a chat's choice the keys that both dialects' clients read."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return
    entries = found.get("content")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            _complete_entry(entry)
            top = entry.get("top_logprobs")
            for other in top if isinstance(top, list) else ():
                if isinstance(other, dict):
                    _complete_other(other)


def _complete_entry(entry: dict[str, Any]) -> None:
    _complete_other(entry)
    if entry.get("top_logprobs") is None:
        entry["top_logprobs"] = []


def _complete_other(entry: dict[str, Any]) -> None:
    number = entry.pop("id", None)
    if "token_id" not in entry:
        entry["token_id"] = number if isinstance(number, int) else UNKNOWN_ID
    if entry.get("bytes") is None:
        entry["bytes"] = list(str(entry.get("token", "")).encode())


def to_parallel_lists(choice: dict[str, Any], alternatives: int, offset: int) -> int:
    """Put a completion choice's log-probabilities into the older form.

    ``alternatives`` is how many were asked for, ``offset`` where the choice's text begins in the
    whole answer, in characters. Returns where the next piece begins.
    """
    found = choice.get("logprobs")
    entries = found.get("content") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        return offset + len(str(choice.get("text") or ""))
    lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "text_offset": []}
    tops: list[dict[str, float]] = []
    for entry in entries:
        token = str(entry.get("token", ""))
        lists["tokens"].append(token)
        lists["token_logprobs"].append(entry.get("logprob"))
        lists["text_offset"].append(offset)
        offset += len(token)
        best = entry.get("top_logprobs") or []
        tops.append({str(other["token"]): other["logprob"] for other in best[:alternatives]})
    choice["logprobs"] = {**lists, "top_logprobs": tops if alternatives else None}
    return offset
