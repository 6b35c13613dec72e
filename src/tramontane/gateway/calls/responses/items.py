"""Input items: read one by one into the form in which they are listed, and made into messages.

Read: a string is one user message; each item gets an id of its own and the fields that its kind
has. What a model of ours cannot be given (files, built-in tools' items, references) is refused
with the place at which it stands.

As messages: ``developer`` speaks with the system's voice, and what the system says before anyone
else is one message with the instructions, since many chat templates know only that one. Calls of
functions that follow each other, and the text before them, are one message of the assistant.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tramontane.domain.refusal import Code, Refusal

Item = dict[str, Any]
Message = dict[str, Any]

_ID_MAX: Final = 128
_DETAILS: Final = frozenset({"low", "high", "auto", "original"})
_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text"})
_STATUSES: Final = frozenset({"in_progress", "completed", "incomplete"})
_SERVED: Final = "message, function_call, function_call_output, reasoning"
_INSTEAD: Final = {
    "item_reference": "send the item itself, or name the response in 'previous_response_id'",
    "input_file": "send its text as input_text",
    "input_audio": "send its text as input_text",
}


class RefusedItemError(Exception):
    """An item cannot be served; carries the refusal up from the depth at which it was found."""

    def __init__(self, code: Code, message: str, param: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message, param)


def read_input(given: str | Sequence[Any], token: str) -> list[Item] | Refusal:
    """Return the items of ``given``; those without an id get one made from ``token``."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        message = "the field 'input' is wrong: expected a text or at least one item"
        return Refusal(Code.INVALID_VALUE, message, "input")
    items: list[Item] = []
    seen: set[str] = set()
    try:
        for index, raw in enumerate(given):
            item = _read_item(raw, f"input[{index}]")
            item["id"] = _id_of(raw, item["type"], index, token, seen)
            seen.add(item["id"])
            items.append(item)
    except RefusedItemError as error:
        return error.refusal
    return items


def messages_of(instructions: str | None, items: Sequence[Item]) -> list[Message] | Refusal:
    """Return the chat messages of ``items``, which `read_input` or a reply has made."""
    system = [instructions] if instructions else []
    messages: list[Message] = []
    calls: set[str] = set()
    reasoning = ""
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            reasoning = _reasoning_of(item)
            continue
        if kind == "function_call":
            calls.add(item["call_id"])
            _add_call(messages, item)
        elif kind == "function_call_output":
            if item["call_id"] not in calls:
                return _no_such_call(item["call_id"])
            output = _content_of(item["output"])
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
        elif item["role"] in {"system", "developer"}:
            content = _content_of(item["content"])
            if messages or not isinstance(content, str):
                messages.append({"role": "system", "content": content})
            else:
                system.append(content)
        else:
            messages.append({"role": item["role"], "content": _content_of(item["content"])})
        if reasoning and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("reasoning_content", reasoning)
        reasoning = ""
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return messages


# Reading.


def _read_item(raw: Any, where: str) -> Item:
    if not isinstance(raw, dict):
        raise _wrong(where, "expected an object such as {'role': 'user', 'content': '...'}")
    kind = raw.get("type", "message" if "role" in raw else None)
    if kind == "message":
        return _read_message(raw, where)
    if kind == "function_call":
        return {
            "type": kind,
            "call_id": _text(raw, "call_id", where, most=_ID_MAX),
            "name": _text(raw, "name", where, most=_ID_MAX),
            "arguments": _text(raw, "arguments", where),
            "status": _status(raw),
        }
    if kind == "function_call_output":
        call_id = _text(raw, "call_id", where, most=_ID_MAX)
        output = raw.get("output")
        if not isinstance(output, str):
            output = _read_parts(output, f"{where}.output", is_assistant=False)
        return {"type": kind, "call_id": call_id, "output": output, "status": _status(raw)}
    if kind == "reasoning":
        return {
            "type": kind,
            "summary": _read_texts(raw.get("summary"), "summary_text", f"{where}.summary"),
            "content": _read_texts(raw.get("content"), "reasoning_text", f"{where}.content"),
        }
    raise _not_served(kind, where, _SERVED)


def _read_message(raw: Mapping[str, Any], where: str) -> Item:
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{where}.role", f"expected one of {', '.join(sorted(_ROLES))}")
    content = raw.get("content")
    is_assistant = role == "assistant"
    if isinstance(content, str):
        content = [_text_part(content, is_assistant=is_assistant)]
    else:
        content = _read_parts(content, f"{where}.content", is_assistant=is_assistant)
    return {"type": "message", "role": role, "content": content, "status": _status(raw)}


def _read_parts(parts: Any, where: str, *, is_assistant: bool) -> list[Item]:
    if not isinstance(parts, list):
        raise _wrong(where, "expected a text or a list of parts")
    return [
        _read_part(part, f"{where}[{index}]", is_assistant=is_assistant)
        for index, part in enumerate(parts)
    ]


def _read_part(part: Any, where: str, *, is_assistant: bool) -> Item:
    if not isinstance(part, dict):
        raise _wrong(where, "expected an object such as {'type': 'input_text', 'text': '...'}")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        return _text_part(_text(part, "text", where), is_assistant=is_assistant)
    if kind == "refusal" and is_assistant:
        return {"type": kind, "refusal": _text(part, "refusal", where)}
    if kind == "input_image" and not is_assistant:
        if part.get("image_url") is None:
            raise _wrong(f"{where}.image_url", "expected a URL or a data URL; files have no ids")
        detail = part.get("detail") or "auto"
        if not isinstance(detail, str) or detail not in _DETAILS:
            raise _wrong(f"{where}.detail", f"expected one of {', '.join(sorted(_DETAILS))}")
        return {"type": kind, "image_url": _text(part, "image_url", where), "detail": detail}
    served = "output_text, refusal" if is_assistant else "input_text, input_image"
    raise _not_served(kind, where, served)


def _read_texts(parts: Any, kind: str, where: str) -> list[Item]:
    if parts is None:
        return []
    if not isinstance(parts, list):
        raise _wrong(where, "expected a list")
    found: list[Item] = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != kind:
            raise _wrong(f"{where}[{index}]", f"expected an object of the type {kind}")
        found.append({"type": kind, "text": _text(part, "text", f"{where}[{index}]")})
    return found


def _text_part(text: str, *, is_assistant: bool) -> Item:
    if is_assistant:
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def _text(holder: Mapping[str, Any], name: str, where: str, *, most: int | None = None) -> str:
    value = holder.get(name)
    if value is None:
        message = f"the field '{where}.{name}' is missing"
        raise RefusedItemError(Code.MISSING_REQUIRED_PARAMETER, message, f"{where}.{name}")
    if not isinstance(value, str):
        raise _wrong(f"{where}.{name}", "expected a text")
    if most is not None and not 1 <= len(value) <= most:
        raise _wrong(f"{where}.{name}", f"expected 1 to {most} characters")
    return value


def _status(raw: Mapping[str, Any]) -> str:
    status = raw.get("status")
    return status if isinstance(status, str) and status in _STATUSES else "completed"


def _id_of(raw: Mapping[str, Any], kind: str, index: int, token: str, seen: set[str]) -> str:
    given = raw.get("id")
    if isinstance(given, str) and 1 <= len(given) <= _ID_MAX and given not in seen:
        return given
    return item_id(kind, token, f"i{index}")


def item_id(kind: str, token: str, place: str) -> str:
    """Return the id of an item: unique, as ``token`` is the response's and ``place`` its own."""
    return f"{_ID_PREFIXES[kind]}_{token}{place}"


_ID_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def _wrong(where: str, what: str) -> RefusedItemError:
    return RefusedItemError(Code.INVALID_VALUE, f"the field '{where}' is wrong: {what}", where)


def _not_served(kind: object, where: str, served: str) -> RefusedItemError:
    name = kind[:64] if isinstance(kind, str) else None
    instead = _INSTEAD.get(name or "", f"expected one of {served}")
    message = f"the field '{where}.type' is wrong: {name!r} is not served here; {instead}"
    return RefusedItemError(Code.INVALID_VALUE, message, f"{where}.type")


# Messages.


def _content_of(content: str | Sequence[Item]) -> str | list[Item]:
    """Return a message's content: a plain text where it is one, which every template takes."""
    if isinstance(content, str):
        return content
    parts = [_part_of(part) for part in content]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _part_of(part: Item) -> Item:
    if part["type"] == "input_image":
        image = {"url": part["image_url"], "detail": part["detail"]}
        return {"type": "image_url", "image_url": image}
    return {"type": "text", "text": part["refusal"] if part["type"] == "refusal" else part["text"]}


def _add_call(messages: list[Message], item: Item) -> None:
    if not (messages and messages[-1]["role"] == "assistant"):
        messages.append({"role": "assistant", "content": ""})
    function = {"name": item["name"], "arguments": item["arguments"]}
    call = {"id": item["call_id"], "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _reasoning_of(item: Item) -> str:
    parts = item.get("content") or item.get("summary") or []
    return "\n".join(part["text"] for part in parts)


def _no_such_call(call_id: str) -> Refusal:
    message = (
        f"the field 'input' is wrong: there is no function_call with the call_id {call_id[:64]!r} "
        "before its output; send the call too, or name the response that made it in "
        "'previous_response_id'"
    )
    return Refusal(Code.INVALID_VALUE, message, "input")
