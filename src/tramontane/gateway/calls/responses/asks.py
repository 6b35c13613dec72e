"""From a Responses request to the body of a chat completion, which every engine takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls.responses.form import NAME_MAX, Asked, Tool
from tramontane.gateway.calls.responses.items import Message
from tramontane.gateway.calls.validation import explain

_MODES: Final = frozenset({"none", "auto", "required"})
_PASSED_ON: Final = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions that a model may call: as the reply repeats them, and as the engine gets them.

    ``offered`` are those that it is offered; with ``allowed_tools`` fewer than ``listed``.
    """

    listed: tuple[dict[str, Any], ...]
    offered: tuple[dict[str, Any], ...]
    choice: str | dict[str, Any]  # as the reply repeats it
    engine_choice: str | dict[str, Any]


def read_tools(asked: Asked) -> Toolbox | Refusal:
    """Return the tools of a request and which of them is to be called, or what is wrong."""
    listed: list[dict[str, Any]] = []
    for index, raw in enumerate(asked.tools or ()):
        tool = _read_tool(raw, f"tools[{index}]")
        if isinstance(tool, Refusal):
            return tool
        listed.append(tool)
    names = [tool["name"] for tool in listed]
    if len(set(names)) != len(names):
        return _wrong("tools", "two functions have the same name")
    choice = _read_choice(asked.tool_choice, names)
    if isinstance(choice, Refusal):
        return choice
    told, for_engine, allowed = choice
    offered = tuple(tool for tool in listed if allowed is None or tool["name"] in allowed)
    return Toolbox(tuple(listed), offered, told, for_engine)


def chat_body(asked: Asked, tools: Toolbox, messages: Sequence[Message]) -> dict[str, Any]:
    """Return the chat request, without the model's name and the way to answer."""
    body: dict[str, Any] = {"messages": list(messages)}
    for name in _PASSED_ON:
        value = getattr(asked, name)
        if value is not None:
            body[name] = value
    if asked.seed is None and asked.random_seed is not None:
        body["seed"] = asked.random_seed
    if asked.max_output_tokens is not None:
        body["max_tokens"] = asked.max_output_tokens
    if asked.wants_log_probs:
        body["logprobs"] = True
        body["top_logprobs"] = asked.top_logprobs or 0
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        body["reasoning_effort"] = asked.reasoning.effort
    if tools.offered:
        body["tools"] = [_engine_tool(tool) for tool in tools.offered]
        body["tool_choice"] = tools.engine_choice
        if asked.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = asked.parallel_tool_calls
    response_format = _response_format(asked)
    if response_format is not None:
        body["response_format"] = response_format
    return body


def told_format(asked: Asked) -> dict[str, Any]:
    """Return the format of the text, as the reply repeats it."""
    wanted = asked.text.format if asked.text is not None else None
    if wanted is None or wanted.type == "text":
        return {"type": "text"}
    if wanted.type == "json_object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "schema": wanted.schema,
        "strict": bool(wanted.strict),
        "description": wanted.description,
    }


def _read_tool(raw: Any, where: str) -> dict[str, Any] | Refusal:
    if not isinstance(raw, dict):
        return _wrong(where, "expected an object such as {'type': 'function', 'name': '...'}")
    kind = raw.get("type")
    if kind != "function":
        name = kind[:64] if isinstance(kind, str) else None
        message = f"the tool {name!r} is not served here: expected function, which you run yourself"
        return _wrong(f"{where}.type", message)
    try:
        tool = msgspec.convert(raw, Tool)
    except msgspec.ValidationError as error:
        found = explain(str(error))
        param = f"{where}.{found.param}" if found.param else where
        return Refusal(found.code, f"{where}: {found.message}", param)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _engine_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool["name"]}
    if tool["description"] is not None:
        function["description"] = tool["description"]
    function["parameters"] = tool["parameters"] or {"type": "object", "properties": {}}
    if tool["strict"]:
        function["strict"] = True
    return {"type": "function", "function": function}


_Choice = tuple[str | dict[str, Any], str | dict[str, Any], frozenset[str] | None]


def _read_choice(choice: str | dict[str, Any] | None, names: Sequence[str]) -> _Choice | Refusal:
    """Return the choice as it is repeated, as the engine gets it, and the allowed names."""
    if choice is None:
        return "auto", "auto", None
    if isinstance(choice, str):
        mode = "required" if choice == "any" else choice
        if mode not in _MODES:
            return _wrong("tool_choice", "expected none, auto, required or a function")
        if mode == "required" and not names:
            return _wrong("tool_choice", "a call is required, and 'tools' lists no function")
        return mode, mode, None
    kind = choice.get("type")
    if kind == "function":
        name = choice.get("name")
        if not isinstance(name, str) or name not in names:
            return _wrong("tool_choice.name", "expected the name of a function in 'tools'")
        told = {"type": "function", "name": name}
        # Offered alone and required, the function is called by every engine; not every engine
        # knows how to pick one of several by its name.
        return told, "required", frozenset({name})
    if kind == "allowed_tools":
        return _read_allowed(choice, names)
    name = kind[:64] if isinstance(kind, str) else None
    return _wrong("tool_choice.type", f"{name!r} is not served: expected function or allowed_tools")


def _read_allowed(choice: Mapping[str, Any], names: Sequence[str]) -> _Choice | Refusal:
    mode = choice.get("mode", "auto")
    if not isinstance(mode, str) or mode not in {"auto", "required"}:
        return _wrong("tool_choice.mode", "expected auto or required")
    tools = choice.get("tools")
    if not isinstance(tools, list) or not tools:
        return _wrong("tool_choice.tools", "expected at least one function")
    allowed: list[str] = []
    for tool in tools:
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or len(name) > NAME_MAX or name not in names:
            return _wrong("tool_choice.tools", "expected functions that 'tools' lists")
        allowed.append(name)
    listed = [{"type": "function", "name": name} for name in allowed]
    told = {"type": "allowed_tools", "mode": mode, "tools": listed}
    return told, mode, frozenset(allowed)


def _response_format(asked: Asked) -> dict[str, Any] | None:
    told = told_format(asked)
    if told["type"] == "text":
        return None
    if told["type"] == "json_object":
        return told
    schema = {name: told[name] for name in ("name", "schema", "strict")}
    if told["description"] is not None:
        schema["description"] = told["description"]
    return {"type": "json_schema", "json_schema": schema}


def _wrong(name: str, what: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"the field {name!r} is wrong: {what}", name)
