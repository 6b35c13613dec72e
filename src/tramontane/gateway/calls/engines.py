"""What engines call by other names, and what they cannot do: said by name, never silently dropped.

Measured on llama.cpp (xllamacpp 2026.10). It takes a named ``tool_choice`` for "auto", leaves the
tools in the prompt with "none", and passes over ``echo``, ``best_of``, ``min_tokens``,
``repetition_penalty``, ``prompt_logprobs`` and ``functions`` without a word. It goes on with a
last message of the assistant by itself and puts that message's text before its answer, which is
what Mistral's ``prefix`` means; vLLM has to be told. Of vLLM its documentation is the source.
"""

from typing import Any, Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls.forms import ChatForm, CompletionForm, FimForm, TextForm

LLAMACPP: Final = "llamacpp"
VLLM: Final = "vllm"
# Engines that run several answers or prompts of one request and report the tokens of one of them.
COUNTS_ONE: Final = frozenset({LLAMACPP})
# Where an engine counts the tokens of a chat without answering it, and the field of the number.
COUNTING: Final = {
    LLAMACPP: ("/v1/chat/completions/input_tokens", "input_tokens"),
    VLLM: ("/tokenize", "count"),
}
RESPONSE_FORMATS: Final = ("text", "json_object", "json_schema")
# Put before the caller's messages when `safe_prompt` is set; Mistral's API has one of its own.
SAFE_PROMPT: Final = (
    "Be helpful, honest and respectful. Do not help with anything that is illegal or that could "
    "harm someone; say so politely instead."
)
# Its README, "tools/server".
_LLAMACPP_NAMES: Final = """
add_generation_prompt adaptive_decay adaptive_target cache_prompt chat_template_kwargs
dry_allowed_length dry_base dry_multiplier dynatemp_exponent dynatemp_range json_schema min_keep
mirostat mirostat_eta mirostat_tau n_discard n_indent n_keep parse_tool_calls
post_sampling_probs reasoning_format repeat_penalty response_fields return_progress
return_tokens t_max_predict_ms thinking_forced_open timings_per_token top_n_sigma typical_p
xtc_probability xtc_threshold
"""
# "Extra parameters" of its OpenAI-compatible server.
_VLLM_NAMES: Final = """
add_special_tokens allowed_token_ids bad_words cache_salt chat_template continue_final_message
documents echo guided_choice guided_decoding_backend guided_grammar guided_json guided_regex
include_reasoning include_stop_str_in_output kv_transfer_params length_penalty logits_processors
mm_processor_kwargs priority request_id return_token_ids return_tokens_as_token_ids
skip_special_tokens spaces_between_special_tokens stop_token_ids structured_outputs
truncate_prompt_tokens use_beam_search vllm_xargs
"""
# Fields of the engines that neither API has; a strict project may use them too.
EXTENSIONS: Final = frozenset((_LLAMACPP_NAMES + _VLLM_NAMES).split())
_CHOICES: Final = frozenset({"none", "auto", "required", "any"})

# Fields that ask for something that no engine behind this gateway does, and what to do instead.
_NOWHERE: Final = {
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "audio": "leave it out: the answer is text",
    "web_search_options": "leave it out and give the model a tool for searching",
    "moderation": "leave it out: no model moderates here",
    "guardrails": "leave them out: the answer is the model's as it is",
    "prompt_mode": "leave it out, or say in a system message how to answer",
}


_FETCHED: Final = ("image_url", "audio_url", "video_url", "input_image", "file_url")


def refused_chat(asked: ChatForm) -> Refusal | None:
    """Return why no engine can answer this chat as it was asked, or None."""
    if (
        asked.functions
        or asked.function_call
        or asked.audio
        or asked.web_search_options
        or asked.moderation
        or asked.prompt_mode
        or asked.guardrails
    ):
        name, instead = next(item for item in _NOWHERE.items() if getattr(asked, item[0]))
        return _unsupported(name, f"no model here does that: {instead}")
    if asked.modalities is not None and set(asked.modalities) - {"text"}:
        return _unsupported("modalities", 'no model here makes anything but text: send ["text"]')
    for message in asked.messages:
        if type(message.content) is list:
            refusal = _fetched(message.content)
            if refusal is not None:
                return refusal
    if asked.tool_choice is None and asked.response_format is None:
        return None
    return _wrong_tools(asked) or _wrong_format(asked)


def _fetched(parts: list[Any]) -> Refusal | None:
    """Refuse what an engine would fetch by itself: from inside the operator's network."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        for name in _FETCHED:
            held = part.get(name)
            url = held.get("url") if isinstance(held, dict) else held
            if isinstance(url, str) and not url[:5].lower().startswith("data:"):
                return _unsupported(
                    "messages", f"{name} is not fetched from elsewhere: send it as a data: URL"
                )
    return None


def _wrong_tools(asked: ChatForm) -> Refusal | None:
    choice = asked.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in _CHOICES:
            return _invalid(
                "tool_choice", "expected none, auto, required, any or one function by its name"
            )
        if choice in {"required", "any"} and not asked.tools:
            return _invalid("tool_choice", f"{choice!r} needs at least one tool in 'tools'")
        return None
    name = chosen_name(choice)
    if name is None:
        form = 'expected {"type": "function", "function": {"name": "..."}}'
        return _invalid("tool_choice", form)
    if all(_name_of(tool) != name for tool in asked.tools or ()):
        return _invalid("tool_choice", f"there is no function {name[:100]!r} in 'tools'")
    return None


def _wrong_format(asked: ChatForm) -> Refusal | None:
    wanted = asked.response_format
    if wanted is None:
        return None
    kind = wanted.get("type")
    if kind not in RESPONSE_FORMATS:
        return _invalid("response_format.type", f"expected one of {', '.join(RESPONSE_FORMATS)}")
    if kind == "json_schema":
        held = wanted.get("json_schema")
        schema = held.get("schema") if isinstance(held, dict) else None
        if not isinstance(schema, dict):
            return _invalid(
                "response_format.json_schema", "expected an object with a JSON schema in 'schema'"
            )
    return None


def refused_by_engine(engine: str, asked: TextForm | FimForm) -> Refusal | None:
    """Return the first thing that ``engine`` would pass over without a word, or None."""
    if engine != LLAMACPP:
        is_fim = isinstance(asked, FimForm | CompletionForm) and asked.suffix
        if is_fim and engine == VLLM:
            return _unsupported("suffix", "vLLM does not fill in the middle: leave it out")
        return None
    if asked.min_tokens:
        return _unsupported("min_tokens", "llama.cpp knows no least number of tokens: leave it out")
    if isinstance(asked, FimForm):
        return None
    if asked.prompt_logprobs:
        return _unsupported(
            "prompt_logprobs", "llama.cpp tells log-probabilities of its answer only"
        )
    if asked.best_of is not None and asked.best_of > (asked.n or 1):
        return _unsupported("best_of", "llama.cpp does not choose among answers: ask for n of them")
    return _refused_completion(asked) if isinstance(asked, CompletionForm) else None


def refused_by_model(route: Route, asked: TextForm | FimForm) -> Refusal | None:
    """Return why the model of ``route`` cannot answer this with text, where that is certain."""
    able = route.capabilities
    if able.generates is False:
        message = (
            f"the model {route.model!r} makes vectors and no text: send texts to /v1/embeddings, "
            "or ask for another model"
        )
        return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "model")
    if able.fills_in is False and isinstance(asked, CompletionForm | FimForm) and asked.suffix:
        why = f"the model {route.model!r} has no tokens for filling in the middle: leave it out"
        return _unsupported("suffix", why)
    return None


def refused_embedding(route: Route) -> Refusal | None:
    """Return why the model of ``route`` makes no vectors, where that is certain."""
    if route.capabilities.embeds is not False:
        return None
    message = (
        f"the model {route.model!r} is deployed for text alone: ask for a model that embeds, or "
        "deploy it with another mode (tramontane deployments update --engine-option mode=...)"
    )
    return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "model")


def _refused_completion(asked: CompletionForm) -> Refusal | None:
    if asked.max_tokens == 0:
        return _unsupported("max_tokens", "llama.cpp makes at least one token: ask for 1 or more")
    if asked.suffix:
        if asked.echo or asked.logprobs or not is_text(asked.prompt):
            why = "llama.cpp fills in between two texts only, without echo and logprobs"
            return _unsupported("suffix", why)
        return None
    if not asked.echo:
        return None
    if asked.logprobs is not None and asked.logprobs is not False:
        return _unsupported(
            "logprobs",
            "with echo it means the prompt's too, and llama.cpp tells those of its answer only",
        )
    if not is_text(asked.prompt):
        return _unsupported(
            "echo", "llama.cpp does not tell the text of token ids: send the prompt as text"
        )
    return None


def is_text(prompt: object) -> bool:
    """Tell whether ``prompt`` is a text or a list of texts."""
    return isinstance(prompt, str) or (
        isinstance(prompt, list) and all(isinstance(item, str) for item in prompt)
    )


def needs_change(engine: str, asked: TextForm) -> bool:
    """Tell whether `changed` would do anything; on the usual path this is all that is asked."""
    if asked.random_seed is not None:
        return True
    if isinstance(asked, ChatForm) and (
        asked.tool_choice is not None or asked.safe_prompt or asked.messages[-1].prefix
    ):
        return True
    if isinstance(asked, CompletionForm) and asked.suffix is not None:
        return True
    return engine == LLAMACPP and (
        asked.repetition_penalty is not None
        or (isinstance(asked, CompletionForm) and asked.logprobs is not None)
    )


def change(engine: str, asked: TextForm, value: dict[str, Any]) -> None:
    """Put the fields of ``value`` into the words of ``engine``."""
    seed = value.pop("random_seed", None)
    if seed is not None and value.get("seed") is None:
        value["seed"] = seed
    if isinstance(asked, CompletionForm) and not asked.suffix:
        value.pop("suffix", None)  # vLLM refuses an empty one
    if engine == LLAMACPP:
        penalty = value.pop("repetition_penalty", None)
        if penalty is not None:
            value["repeat_penalty"] = penalty
        if isinstance(asked, CompletionForm) and asked.logprobs is not None:
            value["logprobs"] = max(1, int(asked.logprobs))  # 0: of the chosen token alone
            if asked.logprobs is False:
                del value["logprobs"]
    if isinstance(asked, ChatForm):
        _change_tools(engine, asked, value)
        _change_messages(engine, asked, value)


def _change_tools(engine: str, asked: ChatForm, value: dict[str, Any]) -> None:
    choice = asked.tool_choice
    if choice == "any":
        value["tool_choice"] = "required"
    elif engine != LLAMACPP:
        return
    elif choice == "none":
        value.pop("tools", None)
        del value["tool_choice"]
    elif isinstance(choice, dict):
        name = chosen_name(choice)
        value["tools"] = [tool for tool in asked.tools or () if _name_of(tool) == name]
        value["tool_choice"] = "required"


def _change_messages(engine: str, asked: ChatForm, value: dict[str, Any]) -> None:
    messages = list(value["messages"])
    if asked.messages[-1].prefix:
        messages[-1] = {name: held for name, held in messages[-1].items() if name != "prefix"}
        if engine == VLLM:
            value["continue_final_message"] = True
            value["add_generation_prompt"] = False
            value["echo"] = True  # the answer begins with the prefix
    if value.pop("safe_prompt", None):
        first = messages[0]
        if first["role"] == "system" and isinstance(first.get("content"), str):
            messages[0] = {**first, "content": f"{SAFE_PROMPT}\n\n{first['content']}"}
        else:
            messages.insert(0, {"role": "system", "content": SAFE_PROMPT})
    value["messages"] = messages


def chosen_name(choice: dict[str, Any]) -> str | None:
    """Return the function that a ``tool_choice`` object names."""
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    return name if isinstance(name, str) and name else None


def _name_of(tool: dict[str, Any]) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _unsupported(name: str, why: str) -> Refusal:
    return Refusal(Code.UNSUPPORTED_BY_ENGINE, f"the field {name!r} cannot be served: {why}", name)


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"the field {name!r} is wrong: {why}", name)
