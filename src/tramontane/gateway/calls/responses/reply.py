"""The response object: what it repeats of the request, its output, usage and end.

Field by field as the official clients read it; ``usage.input_tokens_details`` has both of its
numbers, which Mistral's client insists on (wire reference, 2.1 S8).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tramontane.gateway.calls.responses.asks import Toolbox, told_format
from tramontane.gateway.calls.responses.form import Asked
from tramontane.gateway.calls.responses.items import Item, item_id
from tramontane.gateway.calls.usage import tokens_of

# An engine's finish reasons that leave the answer incomplete, and what they are called here.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a response ended: its status and what the status needs to be understood."""

    status: str
    incomplete_details: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def item_status(self) -> str:
        """Return the status of an item that was being written."""
        return "completed" if self.status == "completed" else "incomplete"


def ending_of(finish_reason: object) -> Ending:
    """Return what an engine's finish reason means."""
    reason = _INCOMPLETE.get(finish_reason) if isinstance(finish_reason, str) else None
    return Ending("incomplete", {"reason": reason}) if reason else Ending("completed")


def failed(message: str, code: str = "server_error") -> Ending:
    """Return the end of a response that an engine did not finish."""
    return Ending("failed", error={"code": code, "message": message})


@dataclass(frozen=True, slots=True)
class Skeleton:
    """All of a response that is known before the engine answers.

    ``token`` are the characters that make its id and those of its items unique.
    """

    token: str
    created_at_s: int
    asked: Asked
    tools: Toolbox
    is_stored: bool

    @property
    def id(self) -> str:
        """Return the response's id."""
        return f"resp_{self.token}"

    def item_id(self, kind: str, index: int) -> str:
        """Return the id of the output item number ``index``."""
        return item_id(kind, self.token, f"o{index}")

    def response(
        self,
        status: str,
        output: Sequence[Item] = (),
        *,
        usage: dict[str, Any] | None = None,
        ending: Ending | None = None,
        completed_at_s: int | None = None,
    ) -> dict[str, Any]:
        """Return the whole object."""
        asked, reasoning = self.asked, self.asked.reasoning
        effort = reasoning.effort if reasoning is not None else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at_s,
            "status": status,
            "background": bool(asked.background),
            "completed_at": completed_at_s if status == "completed" else None,
            "error": ending.error if ending is not None else None,
            "incomplete_details": ending.incomplete_details if ending is not None else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": list(output),
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": effort, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": asked.temperature,
            "text": {"format": told_format(asked), "verbosity": "medium"},
            "tool_choice": self.tools.choice,
            "tools": list(self.tools.listed),
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": asked.user,
        }


def usage_of(usage: object) -> dict[str, Any] | None:
    """Return an engine's usage as this API tells it, or None when there is none to trust."""
    tokens = tokens_of(usage)
    if tokens is None:
        return None
    prompt, completion, cached = tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": _reasoning_tokens(usage, completion)},
        "total_tokens": prompt + completion,
    }


def log_probs_of(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the log-probabilities of a choice or of a chunk of one."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, list):
        return []
    return [_log_prob(entry) for entry in content if isinstance(entry, dict)]


def text_of(part: object) -> str:
    """Return ``part`` if it is a text, else nothing: engines send null for no text."""
    return part if isinstance(part, str) else ""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning in a message or a delta, which engines name in two ways."""
    return text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))


def tool_calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the function calls in a message or a delta."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def function_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and arguments of a call."""
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def reasoning_item(item_id: str, text: str, status: str) -> Item:
    """Return the output item of a model's reasoning."""
    content = [{"type": "reasoning_text", "text": text}]
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": content if status != "in_progress" else [],
        "status": status,
    }


def text_part(text: str, log_probs: list[dict[str, Any]]) -> Item:
    """Return the content part of a text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": log_probs}


def message_item(item_id: str, part: Item | None, status: str) -> Item:
    """Return the output item of a message, with its one part once there is one."""
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part] if part is not None else [],
    }


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Item:
    """Return the output item of a function call."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def output_of(skeleton: Skeleton, choice: Mapping[str, Any], ending: Ending) -> list[Item]:
    """Return the output items of an engine's whole reply."""
    found = choice.get("message")
    message: dict[str, Any] = found if isinstance(found, dict) else {}
    status = ending.item_status
    output: list[Item] = []
    reasoning, text = reasoning_of(message), text_of(message.get("content"))
    calls = tool_calls_of(message)
    if reasoning:
        output.append(reasoning_item(skeleton.item_id("reasoning", 0), reasoning, status))
    if text or not calls:
        part = text_part(text, log_probs_of(choice))
        output.append(message_item(skeleton.item_id("message", len(output)), part, status))
    for call in calls:
        index = len(output)
        function = function_of(call)
        output.append(
            call_item(
                skeleton.item_id("function_call", index),
                text_of(call.get("id")) or call_id_of(skeleton, index),
                text_of(function.get("name")),
                text_of(function.get("arguments")),
                status,
            )
        )
    return output


def call_id_of(skeleton: Skeleton, index: int) -> str:
    """Return an id for a call to which the engine gave none."""
    return f"call_{skeleton.token}{index}"


def _log_prob(entry: Mapping[str, Any]) -> dict[str, Any]:
    top = entry.get("top_logprobs")
    alternatives = [item for item in top if isinstance(item, dict)] if isinstance(top, list) else []
    return {**_token(entry), "top_logprobs": [_token(item) for item in alternatives]}


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    token, log_prob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    text = token if isinstance(token, str) else ""
    return {
        "token": text,
        "bytes": raw if isinstance(raw, list) else list(text.encode()),
        "logprob": log_prob if isinstance(log_prob, int | float) else 0.0,
    }


def _reasoning_tokens(usage: object, completion: int) -> int:
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    count = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return min(count, completion) if isinstance(count, int) and count > 0 else 0
