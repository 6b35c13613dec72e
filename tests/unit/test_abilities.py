"""What files tell of what a model can do."""

import pytest

from tests.support.weights import METADATA, gguf_bytes
from tramontane.domain.catalog import Capabilities
from tramontane.domain.weights import abilities, gguf
from tramontane.domain.weights.facts import MemorySource

ENCODER = Capabilities(
    generates=False, chats=False, fills_in=False, calls_functions=False, embeds=True
)
TOKENS = "tokenizer.ggml.tokens"
IDS = {f"tokenizer.ggml.fim_{part}_token_id": 1 for part in ("pre", "suf", "mid")}
OLDER_IDS = {f"tokenizer.ggml.{part}_token_id": 1 for part in ("prefix", "suffix", "middle")}


def of(**changes: object) -> Capabilities:
    metadata = METADATA | {name.replace("__", "."): value for name, value in changes.items()}
    return gguf.read_facts(MemorySource(gguf_bytes(metadata))).capabilities


def told(fills_in: bool | None, *, chats: bool = False) -> Capabilities:
    return Capabilities(generates=True, chats=chats, fills_in=fills_in)


def test_a_chat_template():
    assert of() == told(False)
    assert of(tokenizer__chat_template="{{ x }}") == told(False, chats=True)
    assert of(tokenizer__chat_template__tool_use="{{ x }}") == told(False, chats=True)


@pytest.mark.parametrize(
    ("metadata", "fills_in"),
    [
        (IDS, True),
        (OLDER_IDS, True),
        (dict(list(IDS.items())[:2]), False),
        ({TOKENS: ["<|fim_prefix|>", "a", "<|fim_suffix|>", "<|fim_middle|>"]}, True),
        ({TOKENS: ["<PRE>", "<SUF>", "<MID>"]}, True),
        ({TOKENS: ["<PRE>", "<SUF>"]}, False),
        ({TOKENS: ["<|new_fim_start|>", "a"]}, None),
        ({TOKENS: ["fim", "prefix"]}, False),
    ],
)
def test_tokens_around_a_gap(metadata: dict[str, object], fills_in: bool | None):
    assert of(**metadata) == told(fills_in)


def test_an_encoder_only_embeds():
    metadata = {"general.architecture": "bert", "bert.context_length": 512}
    assert of(**metadata) == ENCODER


@pytest.mark.parametrize(
    ("architecture", "files", "tokenizer", "expected"),
    [
        ("LlamaForCausalLM", [], {}, Capabilities(generates=True, chats=False)),
        (
            "LlamaForCausalLM",
            [],
            {"chat_template": "{{ x }}"},
            Capabilities(generates=True, chats=True),
        ),
        (
            "LlamaForCausalLM",
            ["chat_template.jinja"],
            {},
            Capabilities(generates=True, chats=True),
        ),
        ("MistralForCausalLM", ["tekken.json"], {}, Capabilities(generates=True)),
        ("Qwen3Model", [], {}, Capabilities()),
        ("BertLMHeadModel", [], {}, Capabilities(generates=True, chats=False)),
        ("BertModel", [], {}, ENCODER),
        ("XLMRobertaModel", [], {"chat_template": ""}, ENCODER),
    ],
)
def test_a_folder(architecture: str, files: list[str], tokenizer: dict, expected: Capabilities):
    assert abilities.of_safetensors(architecture, files, tokenizer) == expected
