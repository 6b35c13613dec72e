"""The chat form of the demo model: ChatML turns with Hermes tool calls.

`CHAT_TEMPLATE` is what engines run (it travels in the GGUF and in tokenizer_config.json).
`segments` writes the same text in Python and says which parts the model has to learn; the test
suite compares the two, because a model trained on another form than it is served with is mute.
"""

from __future__ import annotations

import json
from typing import Any

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

Message = dict[str, Any]
Tool = dict[str, Any]
Segment = tuple[str, bool]

TOOLS_HEAD = "You may call these functions:\n<tools>"
TOOLS_TAIL = (
    "\n</tools>\nTo call one, answer with:\n<tool_call>\n"
    '{"name": "the function", "arguments": {}}\n</tool_call>'
)

CHAT_TEMPLATE = (
    "{%- set rest = messages -%}\n"
    "{%- set system = '' -%}\n"
    "{%- if messages[0].role in ('system', 'developer') -%}\n"
    "{%- set system = messages[0].content -%}\n"
    "{%- set rest = messages[1:] -%}\n"
    "{%- endif -%}\n"
    "{%- if tools -%}\n"
    "{{- '<|im_start|>system\\n' -}}\n"
    "{%- if system -%}{{- system + '\\n\\n' -}}{%- endif -%}\n"
    "{{- 'You may call these functions:\\n<tools>' -}}\n"
    "{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}\n"
    "{{- '\\n</tools>\\nTo call one, answer with:\\n<tool_call>\\n"
    '{"name": "the function", "arguments": {}}\\n</tool_call>'
    "<|im_end|>\\n' -}}\n"
    "{%- elif system -%}\n"
    "{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- for message in rest -%}\n"
    "{%- if message.role == 'tool' -%}\n"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content"
    " + '\\n</tool_response><|im_end|>\\n' -}}\n"
    "{%- else -%}\n"
    "{{- '<|im_start|>' + message.role + '\\n' -}}\n"
    "{%- if message.content -%}{{- message.content -}}{%- endif -%}\n"
    "{%- if message.tool_calls -%}\n"
    "{%- for call in message.tool_calls -%}\n"
    "{%- if message.content or not loop.first -%}{{- '\\n' -}}{%- endif -%}\n"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' -}}\n'
    "{%- if call.function.arguments is string -%}{{- call.function.arguments -}}\n"
    "{%- else -%}{{- call.function.arguments | tojson -}}{%- endif -%}\n"
    "{{- '}\\n</tool_call>' -}}\n"
    "{%- endfor -%}\n"
    "{%- endif -%}\n"
    "{{- '<|im_end|>\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n"
)


def to_json(value: object) -> str:
    """JSON as engines write it into the template: key order kept, one space after , and :."""
    return json.dumps(value, ensure_ascii=False)


def call_text(call: dict[str, Any]) -> str:
    """One tool call in the Hermes form; `arguments` is an object."""
    function = call["function"]
    arguments = function["arguments"]
    rendered = arguments if isinstance(arguments, str) else to_json(arguments)
    return f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {rendered}}}\n</tool_call>'


def segments(messages: list[Message], tools: list[Tool] | None = None) -> list[Segment]:
    """The conversation as (text, learn) pieces; what the assistant says is learnt, up to the
    end of its turn. Raises KeyError on a message without a role."""
    parts: list[Segment] = []
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    if tools:
        lead = system + "\n\n" if system else ""
        listed = "".join("\n" + to_json(tool) for tool in tools)
        system = lead + TOOLS_HEAD + listed + TOOLS_TAIL
    if system:
        parts.append((f"{TURN_START}system\n{system}{TURN_END}\n", False))
    for message in messages:
        parts.extend(_turn(message))
    return parts


def _turn(message: Message) -> list[Segment]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        text = f"<tool_response>\n{content}\n</tool_response>"
        return [(f"{TURN_START}user\n{text}{TURN_END}\n", False)]
    if message["role"] != "assistant":
        return [(f"{TURN_START}{message['role']}\n{content}{TURN_END}\n", False)]
    pieces = [content] if content else []
    pieces += [call_text(call) for call in message.get("tool_calls") or []]
    return [
        (f"{TURN_START}assistant\n", False),
        ("\n".join(pieces) + TURN_END, True),
        ("\n", False),
    ]


def prompt(messages: list[Message], tools: list[Tool] | None = None) -> str:
    """The text an engine feeds to the model before it answers."""
    return "".join(text for text, _ in segments(messages, tools)) + f"{TURN_START}assistant\n"
