"""LoRA adapters: which matrices of a model they change, and whether they fit one.

An adapter holds two small matrices for each that it changes: ``A`` of rank x inputs and ``B`` of
outputs x rank (Hu et al. 2021, "LoRA"). llama.cpp names them ``<tensor>.lora_a`` and ``.lora_b``;
PEFT names them ``base_model.model.<module>.lora_A.weight`` and says in `adapter_config.json` how
it was made. Engines fail at the start over what does not fit; here it is told at the import.
"""

from collections.abc import Mapping
from typing import Any, Final

from tramontane.domain.weights.facts import LoraPair, MalformedWeightsError

RANK_MAX: Final = 512  # vLLM's largest; larger ones are hardly smaller than the model
Shape = tuple[int, ...]

_PEFT_PREFIX: Final = "base_model.model."
_PEFT_SUFFIX: Final = ".weight"
# llama.cpp multiplies the embedding from the other side, so its two matrices are swapped.
_EMBEDDING: Final = "token_embd.weight"


def gguf_pairs(shapes: Mapping[str, Shape]) -> tuple[LoraPair, ...]:
    """Return the matrices of a GGUF adapter; ``shapes`` as in the file: the row's length first."""
    halves = _halves(shapes, ".lora_a", ".lora_b")
    pairs: list[LoraPair] = []
    for name, (first, second) in halves.items():
        inputs, rank_a = first
        rank_b, outputs = second
        if name == _EMBEDDING:
            inputs, outputs = outputs, inputs
        pairs.append(_pair(name, inputs, outputs, rank_a, rank_b))
    return tuple(pairs)


def peft_pairs(shapes: Mapping[str, Shape]) -> tuple[LoraPair, ...]:
    """Return the matrices of PEFT's tensors; ``shapes`` as in safetensors: rows first."""
    halves = _halves(shapes, ".lora_A.weight", ".lora_B.weight")
    pairs: list[LoraPair] = []
    for name, (first, second) in halves.items():
        if not name.startswith(_PEFT_PREFIX):
            msg = f"the tensor {name[:64]!a} is not named as PEFT does ({_PEFT_PREFIX}...)"
            raise MalformedWeightsError(msg)
        module = name.removeprefix(_PEFT_PREFIX) + _PEFT_SUFFIX
        pairs.append(_pair(module, first[1], second[0], first[0], second[1]))
    return tuple(pairs)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what `adapter_config.json` says that engines do not serve."""
    kind = config.get("peft_type")
    if kind != "LORA":
        msg = f"adapter_config.json has the peft_type {str(kind)[:64]!a}: only LORA is served"
        raise MalformedWeightsError(msg)
    if config.get("use_dora"):
        msg = "adapter_config.json sets use_dora, which engines do not serve: merge it instead"
        raise MalformedWeightsError(msg)
    if config.get("bias", "none") != "none":
        msg = "adapter_config.json trains biases, which engines do not serve: merge it instead"
        raise MalformedWeightsError(msg)
    if config.get("modules_to_save"):
        msg = (
            "adapter_config.json has modules_to_save, whole matrices beside the adapter, which "
            "engines do not serve: merge it instead"
        )
        raise MalformedWeightsError(msg)


def check_fits(pairs: tuple[LoraPair, ...], base: Mapping[str, Shape], *, is_gguf: bool) -> None:
    """Raise `MalformedWeightsError` for an adapter that was not made for a model like ``base``.

    ``base`` are the shapes of the model's tensors, in the order of its format. In safetensors an
    engine may know a matrix by another name: there some have to be found, and none may differ.
    """
    found = 0
    for pair in pairs:
        shape = base.get(pair.name)
        if shape is None:
            if is_gguf:
                msg = f"it changes the tensor {pair.name[:64]!a}, which the base model has not"
                raise MalformedWeightsError(msg)
            continue
        found += 1
        inputs, outputs = (shape[:2] if is_gguf else shape[:-3:-1]) if len(shape) > 1 else (0, 0)
        if (inputs, outputs) != (pair.inputs, pair.outputs):
            msg = (
                f"it changes the tensor {pair.name[:64]!a} as {pair.inputs} x {pair.outputs}, and "
                f"the base model's is {inputs} x {outputs}"
            )
            raise MalformedWeightsError(msg)
    if not found:
        msg = "it changes no tensor that the base model has"
        raise MalformedWeightsError(msg)


def _halves(
    shapes: Mapping[str, Shape], suffix_a: str, suffix_b: str
) -> dict[str, tuple[Shape, Shape]]:
    for name in shapes:
        if not name.endswith((suffix_a, suffix_b)):
            msg = f"the tensor {name[:64]!a} is no part of a LoRA adapter"
            raise MalformedWeightsError(msg)
    firsts = {n.removesuffix(suffix_a): s for n, s in shapes.items() if n.endswith(suffix_a)}
    seconds = {n.removesuffix(suffix_b): s for n, s in shapes.items() if n.endswith(suffix_b)}
    for name in sorted(firsts.keys() ^ seconds.keys()):
        msg = f"the tensor {name[:64]!a} has only one of its two matrices"
        raise MalformedWeightsError(msg)
    for name in sorted(firsts):
        if len(firsts[name]) != 2 or len(seconds[name]) != 2:
            msg = f"the tensor {name[:64]!a} is changed by something that is no matrix"
            raise MalformedWeightsError(msg)
    return {name: (firsts[name], seconds[name]) for name in sorted(firsts)}


def _pair(name: str, inputs: int, outputs: int, rank: int, other_rank: int) -> LoraPair:
    if rank != other_rank or not 0 < rank <= RANK_MAX:
        msg = (
            f"the matrices of {name[:64]!a} have the ranks {rank} and {other_rank}: expected one "
            f"rank of 1 to {RANK_MAX}"
        )
        raise MalformedWeightsError(msg)
    return LoraPair(name, inputs, outputs, rank)
