"""Turns the safetensors folder of the demo model into a GGUF file for llama.cpp.

    python models/demo/convert.py models/demo/safetensors OUT.gguf --type q8_0

The output depends on the input and on the `gguf` package only, byte for byte; a test compares it
with the committed file. It must never need torch: the packages are `gguf` and `numpy`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray

ARCHITECTURE = "llama"
# llama.cpp's name of our pre-tokenizer: single digits, then the GPT-2 splitting rule.
PRE_TOKENIZER = "starcoder"
TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Weights = dict[str, NDArray[np.float32]]


def convert(source: Path, target: Path, kind: str) -> None:
    """Writes `target` from the folder `source`; `kind` is a key of TYPES.

    Raises KeyError on a missing tensor or setting and ValueError on a tensor that is not float16.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    quantization, file_type = TYPES[kind]
    writer = GGUFWriter(target, ARCHITECTURE)
    _add_identity(writer, file_type)
    _add_shape(writer, config)
    _add_tokenizer(writer, source)
    for name, weight in _tensors(read_safetensors(source / "model.safetensors"), config):
        # Norms are vectors and stay exact: they cost nothing and matter most.
        exact = weight.ndim == 1
        chosen = GGMLQuantizationType.F32 if exact else quantization
        writer.add_tensor(name, quantize(weight, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_safetensors(path: Path) -> Weights:
    """All tensors of a safetensors file as float32 arrays.

    Format: https://github.com/huggingface/safetensors#format (header length, JSON, bytes).
    """
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    weights: Weights = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F16":
            raise ValueError(f"{name} is {entry['dtype']}, expected F16: write it with train.py")
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(raw[start + begin : start + end], dtype="<f2")
        weights[name] = flat.reshape(entry["shape"]).astype(np.float32)
    return weights


def _add_identity(writer: GGUFWriter, file_type: LlamaFileType) -> None:
    writer.add_type("model")
    writer.add_name("Tramontane demo")
    writer.add_description("A very small chat model that learnt Tramontane's own texts by heart.")
    writer.add_organization("The Tramontane project")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_size_label("5.8M")
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)


def _add_shape(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: GGUFWriter, source: Path) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(model["vocab"][config["bos_token"]])
    writer.add_eos_token_id(model["vocab"][config["eos_token"]])
    writer.add_pad_token_id(model["vocab"][config["pad_token"]])
    writer.add_add_bos_token(config["add_bos_token"])
    writer.add_chat_template(config["chat_template"])


def _tensors(weights: Weights, config: dict[str, Any]) -> list[tuple[str, NDArray[np.float32]]]:
    """Tensors under llama.cpp's names, in a fixed order."""
    made = [("token_embd.weight", weights["model.embed_tokens.weight"])]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in LAYER_NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in heads:
                weight = _interleave(weight, heads[ours])
            made.append((f"blk.{layer}.{ours}.weight", weight))
    made.append(("output_norm.weight", weights["model.norm.weight"]))
    return made


def _interleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorders the rows of a Q or K matrix: transformers rotates the two halves of a head against
    each other, llama.cpp rotates neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", type=Path, help="folder with model.safetensors and its JSON files"
    )
    parser.add_argument("target", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=sorted(TYPES), default="q8_0")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target, arguments.type)


if __name__ == "__main__":
    main()
