"""From what a client asks to what the engine gets."""

from typing import Any

import orjson
import pytest

from tests.gateway.responses.asking import ROUTE, TOKEN, WEATHER, asked, engine_body, refused
from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls.responses.call import ResponsesCall, read_responses_call


def messages(history: list[dict[str, Any]] | None = None, **fields: Any) -> Any:
    return engine_body(asked(history, **fields))["messages"]


def test_a_text_is_one_user_message() -> None:
    assert engine_body(asked()) == {
        "model": "demo-engine",
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_a_stream_asks_for_its_usage() -> None:
    body = engine_body(asked(stream=True))
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_instructions_and_leading_system_messages_are_one() -> None:
    given = [
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "hello"},
        {"role": "developer", "content": "Now rhyme."},
    ]
    assert messages(input=given, instructions="Be true.") == [
        {"role": "system", "content": "Be true.\n\nBe kind.\n\nBe brief."},
        {"role": "user", "content": "hello"},
        {"role": "system", "content": "Now rhyme."},
    ]


def test_calls_and_their_outputs_are_messages_of_assistant_and_tool() -> None:
    given = [
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "two cities"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{ }"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2",
         "output": [{"type": "input_text", "text": "rain"}]},
    ]  # fmt: skip
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{ }"}},
    ]
    assert messages(input=given) == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "two cities",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    ]


def test_earlier_items_come_first_without_earlier_instructions() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    given = [{"type": "function_call_output", "call_id": "c1", "output": "sun"}]
    found = messages([call], input=given, instructions="Be brief.", previous_response_id="resp_b")
    assert [message["role"] for message in found] == ["system", "assistant", "tool"]


def test_images_go_on_as_parts() -> None:
    parts = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
    ]
    assert messages(input=[{"role": "user", "content": parts}])[0]["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
    ]


def test_an_item_without_an_id_gets_one_and_ids_are_unique() -> None:
    given = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "id": "msg_1"},
        {"role": "assistant", "content": "c", "id": "msg_1"},
    ]
    ids = [item["id"] for item in asked(input=given).items]
    assert ids[1] == "msg_1"
    assert len(set(ids)) == 3
    assert ids[0].startswith("msg_a")


def test_sampling_goes_on_by_the_engines_names() -> None:
    body = engine_body(
        asked(
            temperature=0.5,
            top_p=0.9,
            max_output_tokens=20,
            stop=["x"],
            random_seed=7,
            top_logprobs=2,
            reasoning={"effort": "low", "summary": "auto"},
        )
    )
    assert {name: value for name, value in body.items() if name not in {"model", "messages"}} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "seed": 7,
        "max_tokens": 20,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
    }


def test_tools_are_unfolded() -> None:
    body = engine_body(asked(tools=[WEATHER], tool_choice="any", parallel_tool_calls=False))
    function = {name: WEATHER[name] for name in ("name", "description", "parameters", "strict")}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == "required"
    assert body["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "offered", "engine"),
    [
        ({"type": "function", "name": "time"}, ["time"], "required"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "weather"}]},
            ["weather"],
            "auto",
        ),
        ("none", [], None),  # llama.cpp would leave them in the prompt
    ],
)
def test_a_chosen_function_is_offered_alone(
    choice: Any, offered: list[str], engine: str | None
) -> None:
    call = asked(tools=[WEATHER, {"type": "function", "name": "time"}], tool_choice=choice)
    body = engine_body(call)
    assert [tool["function"]["name"] for tool in body.get("tools", [])] == offered
    assert body.get("tool_choice") == engine
    told = call.skeleton.response("completed")
    assert [tool["name"] for tool in told["tools"]] == ["weather", "time"]


def test_a_format_is_unfolded() -> None:
    schema = {"type": "object", "properties": {}}
    wanted = {"type": "json_schema", "name": "it", "schema": schema, "strict": True}
    body = engine_body(asked(text={"format": wanted}))
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "it", "schema": schema, "strict": True},
    }
    assert engine_body(asked(text={"format": {"type": "json_object"}}))["response_format"] == {
        "type": "json_object"
    }
    assert "response_format" not in engine_body(asked(text={"format": {"type": "text"}}))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"role": "boss", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": [], "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]},
         "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "mode": []}}, "tool_choice.mode"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"include": ["everything"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "store": False}, "store"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    refusal = refused(**fields)
    assert refusal.param == param, refusal
    assert refusal.code in {Code.INVALID_VALUE, Code.MISSING_REQUIRED_PARAMETER}
    assert param.partition("[")[0].partition(".")[0] in refusal.message


def test_who_may_allow_storage_is_told() -> None:
    assert "an operator can allow it" in refused(store=True).message


def test_hints_have_no_effect() -> None:
    plain = engine_body(asked())
    hints = {
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"],
        "service_tier": "auto",
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "unheard_of": 1,
    }
    assert engine_body(asked(**hints)) == plain


def test_a_pattern_that_could_hang_the_engine_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+"}}}
    tool = WEATHER | {"parameters": schema}
    refusal = asked(tools=[tool]).refused_by(ROUTE)
    assert refusal is not None
    assert refusal.code is Code.UNSUPPORTED_BY_ENGINE


def test_what_an_answer_can_take() -> None:
    assert asked(max_output_tokens=10).completion_tokens_max(2048) == 10
    assert asked().completion_tokens_max(2048) == 2048
    assert 5 <= asked().prompt_tokens_max(2048) <= 100


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"top_logprobs": 0}, None),  # Mistral's client sends it with every request
        ({"include": ["message.output_text.logprobs"]}, True),
        ({"top_logprobs": 1}, True),
    ],
)
def test_log_probabilities_are_asked_for_when_they_are_wanted(fields: Any, told: Any) -> None:
    assert engine_body(asked(**fields)).get("logprobs") is told


def test_a_strict_project_takes_no_unknown_field() -> None:
    def read(**fields: Any) -> Any:
        body = orjson.dumps({"model": "demo", "input": "hello"} | fields)
        return read_responses_call(body, TOKEN, may_store=False, now_s=lambda: 0, is_strict=True)

    assert isinstance(read(prompt_cache_retention="24h", seed=1), ResponsesCall)
    refusal = read(unheard_of=1)
    assert isinstance(refusal, Refusal)
    assert refusal.param == "unheard_of"
