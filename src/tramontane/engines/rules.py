"""Rules that hold for every engine: what a spec and a model version must be to be served."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tramontane.domain.catalog import ModelVersion, VersionKind, WeightsFormat
from tramontane.domain.deployment import ADAPTERS_MAX, DeploymentSpec
from tramontane.domain.refusal import Code, Refusal

# Bytes of keys and values for one token of context, per parameter to the power of 2/3.
#
# A transformer of L layers and width d has about 12 L d^2 parameters and keeps at most 4 L d bytes
# per token (keys and values, 2 bytes each). With d proportional to L, as in all usual models, that
# is proportional to P^(2/3). Computed from published configurations the factor is 0.15 for
# Llama-2-7B and -13B, 0.16 for Phi-3-mini, Qwen1.5-0.5B and Qwen3-0.6B, 0.19 for MiniCPM-2B, 0.23
# for GPT2-XL (the highest found) and 0.02 to 0.03 for models with grouped queries such as Llama-3.
# The weights do not tell which kind they are, so this takes the highest; `memory_bytes` in the
# spec overrides it.
KV_FACTOR: Final = 0.25

# Without a count of parameters: no usual format has less than 4 bits for each.
PARAMETERS_PER_BYTE_MAX: Final = 2

MEBIBYTE: Final = 1 << 20
GIBIBYTE: Final = 1 << 30


def kv_bytes_per_token(version: ModelVersion) -> int:
    """Return an upper estimate of the memory that one token of context takes, at 16 bits."""
    parameters = version.parameters or version.size_bytes * PARAMETERS_PER_BYTE_MAX
    return int(KV_FACTOR * parameters ** (2 / 3)) + 1


def check_format(engine: str, needed: WeightsFormat, version: ModelVersion) -> Refusal | None:
    """Refuse weights of another format, naming the engine that fits."""
    if version.format is needed:
        return None
    fitting = "llamacpp" if version.format is WeightsFormat.GGUF else "vllm"
    message = (
        f"{engine} serves {needed} weights and this model is {version.format}: "
        f"expected engine {fitting}"
    )
    return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "engine")


def check_path(version: ModelVersion) -> Refusal | None:
    """Refuse a path that could be read as an option or a placeholder of a command line."""
    path = version.path
    if path.startswith("/") and path.isprintable() and not set(path) & set("{}"):
        return None
    message = (
        f"the model's path {path!r} cannot be served: expected an absolute path without braces or "
        "control characters; move the weights and import the model again"
    )
    return Refusal(Code.INVALID_VALUE, message, "model")


def check_adapters(
    spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion]
) -> Refusal | None:
    """Refuse an adapter as the model, and adapters that were not made for the model.

    ``adapters`` are the versions of ``spec.adapters``, in their order.
    """
    if version.kind is VersionKind.ADAPTER:
        message = (
            "this model is an adapter: deploy the model that it was made for, and name this one "
            "among its `adapters` (tramontane deployments create --adapter NAME=MODEL)"
        )
        return Refusal(Code.INVALID_VALUE, message, "model")
    if len(adapters) > ADAPTERS_MAX:
        message = f"adapters are {len(adapters)}: expected at most {ADAPTERS_MAX}"
        return Refusal(Code.INVALID_VALUE, message, "adapters")
    for wanted, adapter in zip(spec.adapters, adapters, strict=True):
        if adapter.base_model_id != version.model_id:
            what = "a model, no adapter" if adapter.base_model_id is None else "for another model"
            message = (
                f"the adapter {wanted.name} is {what}: expected one that was imported with this "
                "deployment's model as its base"
            )
            return Refusal(Code.INVALID_VALUE, message, "adapters")
        fault = check_format(spec.engine, version.format, adapter) or check_path(adapter)
        if fault is not None:
            return replace(fault, param="adapters")
    return None


# What the smallest engine takes; less would let one tenant fill a node with promises.
MILLICORES_MIN: Final = 100


def check_sizes(spec: DeploymentSpec, version: ModelVersion, parallel_max: int) -> Refusal | None:
    """Refuse amounts that make no sense for the model."""
    length = version.context_length
    if not 1 <= spec.context_length <= length:
        message = (
            f"context_length is {spec.context_length}: expected 1 to {length}, "
            "which is what the model was made for"
        )
        return Refusal(Code.INVALID_VALUE, message, "context_length")
    if not 1 <= spec.parallel <= parallel_max:
        message = f"parallel is {spec.parallel}: expected 1 to {parallel_max} requests at a time"
        return Refusal(Code.INVALID_VALUE, message, "parallel")
    if spec.cpu_millicores is not None and spec.cpu_millicores < MILLICORES_MIN:
        message = f"cpu_millicores is {spec.cpu_millicores}: expected at least {MILLICORES_MIN}"
        return Refusal(Code.INVALID_VALUE, message, "cpu_millicores")
    return None


def check_memory(spec: DeploymentSpec, bytes_min: int, reason: str) -> Refusal | None:
    """Refuse an override of the memory that cannot hold what it must."""
    if spec.memory_bytes is None or spec.memory_bytes >= bytes_min:
        return None
    message = f"memory_bytes is {spec.memory_bytes}: expected at least {bytes_min}, {reason}"
    return Refusal(Code.INVALID_VALUE, message, "memory_bytes")


def must_pass(refusal: Refusal | None) -> None:
    """Raise ValueError for a spec that was never checked."""
    if refusal is not None:
        msg = f"launch of a spec that is refused: {refusal.message}"
        raise ValueError(msg)
