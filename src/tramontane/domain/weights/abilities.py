"""What files tell of what a model can do: names of architectures, templates and tokens.

None stands for what they do not tell; then the engine is asked, and its answer counts.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from tramontane.domain.catalog import Capabilities

# GGUF's names of encoders: they have no next token to sample, so they can only embed.
GGUF_ENCODERS: Final = frozenset(
    {"bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert"}
    | {"neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder"}
)
# The texts by which llama.cpp (src/llama-vocab.cpp) knows the tokens around a gap, for
# vocabularies whose file does not name their ids: before it, after it, in it.
_TEXTS: Final = {
    "pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> ▁<PRE> <|code_prefix|> "
    "<\uff5cfim▁begin\uff5c>",
    "suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <SUF> ▁<SUF> <|code_suffix|> "
    "<\uff5cfim▁hole\uff5c>",
    "mid": "<|fim_middle|> <fim-middle> <fim_middle> <MID> ▁<MID> <|code_middle|> "
    "<\uff5cfim▁end\uff5c>",
}
FIM_TEXTS: Final[Mapping[bytes, str]] = {
    text.encode(): part for part, texts in _TEXTS.items() for text in texts.split()
}
_FIM_PARTS: Final = ("pre", "suf", "mid")
_FIM_KEYS: Final = {
    "pre": ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
    "suf": ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
    "mid": ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
}
CHAT_TEMPLATE: Final = "tokenizer.chat_template"
# Architectures of transformers that only embed, classify or fill a mask, by how they begin.
_ENCODER_STARTS: Final = (
    *("Albert", "Bert", "Camembert", "Deberta", "DistilBert", "Electra", "EuroBert", "GteModel"),
    *("GteNewModel", "JinaBert", "MPNet", "ModernBert", "NeoBERT", "NomicBert", "Roberta"),
    *("SnowflakeGte", "T5EncoderModel", "XLMRoberta"),
)
_GENERATOR_ENDS: Final = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def looks_like_fim(token: bytes) -> bool:
    """Tell whether a token may be one around a gap that `FIM_TEXTS` does not know yet."""
    lowered = token.lower()
    return b"<" in lowered and any(
        word in lowered for word in (b"fim", b"prefix", b"suffix", b"middle")
    )


def of_gguf(
    architecture: str, keys: Collection[str], fim_parts: Collection[str], *, has_doubt: bool
) -> Capabilities:
    """Return what a GGUF file tells.

    ``keys`` are those of its metadata; ``fim_parts`` the parts of `FIM_TEXTS` in its vocabulary;
    ``has_doubt``: a token only looks like one.
    """
    if architecture in GGUF_ENCODERS:
        return Capabilities(
            generates=False, chats=False, fills_in=False, calls_functions=False, embeds=True
        )
    has_all = all(
        part in fim_parts or any(key in keys for key in _FIM_KEYS[part]) for part in _FIM_PARTS
    )
    return Capabilities(
        generates=True,
        chats=any(key.startswith(CHAT_TEMPLATE) for key in keys),
        fills_in=True if has_all else None if has_doubt else False,
    )


def of_safetensors(
    architecture: str, files: Collection[str], tokenizer_config: Mapping[str, Any]
) -> Capabilities:
    """Return what a folder tells: ``files`` are the names in it."""
    if architecture.startswith(_ENCODER_STARTS) and not architecture.endswith(_GENERATOR_ENDS):
        return Capabilities(
            generates=False,
            chats=False,
            fills_in=False,
            calls_functions=False,
            embeds=None if "Classification" in architecture else True,
        )
    has_template = bool(tokenizer_config.get("chat_template")) or any(
        name in files for name in ("chat_template.jinja", "chat_template.json")
    )
    # Mistral's own tokenizers hold their template in code.
    is_mistrals = any(name == "tekken.json" or ".model.v" in name for name in files)
    generates = True if architecture.endswith(_GENERATOR_ENDS) else None
    return Capabilities(
        generates=generates,
        chats=True if has_template else None if is_mistrals or generates is None else False,
    )
