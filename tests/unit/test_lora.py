"""LoRA adapters: which matrices they change, and what does not fit a model."""

import pytest

from tests.support.weights import F32, METADATA, gguf_bytes, tensor
from tramontane.domain.weights import gguf, lora
from tramontane.domain.weights.facts import LoraPair, MalformedWeightsError, MemorySource

ADAPTER = {
    "general.architecture": "llama",
    "general.type": "adapter",
    "adapter.type": "lora",
}
PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"


def adapter(metadata: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> bytes:
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append(tensor(name, shape, F32, offset))
        size = 4
        for length in shape:
            size *= length
        offset += -(-size // 32) * 32
    return gguf_bytes(metadata, tensors, bytes(offset))


def test_a_gguf_adapter():
    shapes = {"blk.0.attn_q.weight.lora_a": (16, 4), "blk.0.attn_q.weight.lora_b": (4, 8)}
    facts = gguf.read_facts(MemorySource(adapter(ADAPTER, shapes)))
    assert facts.adapts == (LoraPair("blk.0.attn_q.weight", 16, 8, 4),)
    assert (facts.architecture, facts.context_length) == ("llama", 0)


def test_the_embedding_is_multiplied_from_the_other_side():
    shapes = {"token_embd.weight.lora_a": (100, 4), "token_embd.weight.lora_b": (4, 16)}
    (pair,) = lora.gguf_pairs(shapes)
    lora.check_fits((pair,), {"token_embd.weight": (16, 100)}, is_gguf=True)


@pytest.mark.parametrize(
    ("metadata", "shapes", "message"),
    [
        (
            {**ADAPTER, "adapter.type": "control_vector"},
            {"a.lora_a": (8, 4), "a.lora_b": (4, 8)},
            "only lora",
        ),
        (ADAPTER, {"a.lora_a": (8, 4)}, "only one of its two"),
        (ADAPTER, {"a.lora_a": (8, 4), "a.lora_b": (5, 8)}, "ranks 4 and 5"),
        (ADAPTER, {"a.lora_a": (8, 600), "a.lora_b": (600, 8)}, "expected one rank"),
        (ADAPTER, {"a.lora_a": (8, 4, 2), "a.lora_b": (4, 8, 2)}, "no matrix"),
        (ADAPTER, {"output.weight": (8, 4)}, "no part of a LoRA adapter"),
    ],
)
def test_what_is_no_adapter(
    metadata: dict[str, object], shapes: dict[str, tuple[int, ...]], message: str
):
    with pytest.raises(MalformedWeightsError, match=message):
        gguf.read_facts(MemorySource(adapter(metadata, shapes)))


def test_a_model_changes_nothing():
    assert gguf.read_facts(MemorySource(gguf_bytes(METADATA))).adapts is None


def test_pefts_names_are_those_of_the_model():
    shapes = {f"{PREFIX}{Q}.lora_A.weight": (4, 16), f"{PREFIX}{Q}.lora_B.weight": (8, 4)}
    pairs = lora.peft_pairs(shapes)
    assert pairs == (LoraPair(f"{Q}.weight", 16, 8, 4),)
    lora.check_fits(pairs, {f"{Q}.weight": (8, 16), "other.weight": (1, 1)}, is_gguf=False)
    with pytest.raises(MalformedWeightsError, match="16 x 8, and the base model's is 8 x 16"):
        lora.check_fits(pairs, {f"{Q}.weight": (16, 8)}, is_gguf=False)
    with pytest.raises(MalformedWeightsError, match="no tensor that the base model has"):
        lora.check_fits(pairs, {"other.weight": (8, 16)}, is_gguf=False)
    with pytest.raises(MalformedWeightsError, match="as PEFT does"):
        lora.peft_pairs({"q.lora_A.weight": (4, 16), "q.lora_B.weight": (8, 4)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "only LORA"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": "LORA", "use_dora": True}, "use_dora"),
        ({"peft_type": "LORA", "bias": "all"}, "biases"),
        ({"peft_type": "LORA", "modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_engines_do_not_serve(config: dict[str, object], message: str):
    with pytest.raises(MalformedWeightsError, match=message):
        lora.check_config(config)
    lora.check_config({"peft_type": "LORA", "bias": "none", "modules_to_save": None})
