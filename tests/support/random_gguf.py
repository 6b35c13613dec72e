"""A real but meaningless GGUF: a tiny llama with random weights, made in well under a second.

It answers any chat with random characters, which is enough to test that a served model is
loaded, streamed, counted, drained and ended.
"""

import string
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

CONTEXT_LENGTH = 512
LAYERS = 2
WIDTH = 64
HEADS = 2
FEED_FORWARD = 128
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FIM_SPECIALS = ("<fim_pre>", "<fim_suf>", "<fim_mid>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_random_gguf(path: Path, *, seed: int = 4711, fills_in: bool = False) -> Path:
    """Write the model to ``path`` (about 400 kB) and return the path.

    ``fills_in``: it has the tokens for filling in the middle.
    """
    random = np.random.default_rng(seed)
    specials = (*SPECIALS, *FIM_SPECIALS) if fills_in else SPECIALS
    tokens = [*specials, *_byte_characters()]
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("random")
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = [TokenType.CONTROL] * len(specials) + [TokenType.NORMAL] * (len(tokens) - len(specials))
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])  # the format wants a list that is not empty
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if fills_in:
        for name, number in (("pre", 3), ("suf", 4), ("mid", 5)):
            writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", number)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))

    def add_ones(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    add_ones("output_norm.weight")
    add("output.weight", len(tokens), WIDTH)
    for layer in range(LAYERS):
        add_ones(f"blk.{layer}.attn_norm.weight")
        add_ones(f"blk.{layer}.ffn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_random_encoder(path: Path, *, seed: int = 4711) -> Path:
    """Write a tiny BERT with random weights and mean pooling to ``path``; return the path."""
    random = np.random.default_rng(seed)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"{start}{letter}" for letter in string.ascii_lowercase for start in ("\u2581", "")]
    writer = GGUFWriter(str(path), "bert")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(tokens) - 5))
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, dtype=np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    add("token_types.weight", 2, WIDTH)
    add("position_embd.weight", CONTEXT_LENGTH, WIDTH)
    add_norm("token_embd_norm")
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
            add(f"blk.{layer}.{name}.bias", WIDTH)
        add_norm(f"blk.{layer}.attn_output_norm")
        add(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_up.bias", FEED_FORWARD)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, FEED_FORWARD)
        add(f"blk.{layer}.ffn_down.bias", WIDTH)
        add_norm(f"blk.{layer}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_characters() -> list[str]:
    """Return GPT-2's printable stand-ins of the 256 bytes (openai/gpt-2, `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {byte: chr(byte) for byte in printable}
    for count, byte in enumerate(byte for byte in range(256) if byte not in printable):
        stand_ins[byte] = chr(256 + count)
    return [stand_ins[byte] for byte in range(256)]
