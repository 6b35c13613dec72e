"""Model versions and specs that engine tests share."""

import dataclasses
from typing import Any

from tramontane.domain.catalog import ModelVersion, WeightsFormat
from tramontane.domain.deployment import AdapterSpec, DeploymentSpec

SECRET = "s3cret-of-this-replica"

DEMO = ModelVersion(
    id="mdv_demo",
    model_id="mdl_demo",
    number=1,
    format=WeightsFormat.GGUF,
    path="/models/tramontane-demo-q8_0.gguf",
    digest="sha256:0",
    size_bytes=6_300_000,
    architecture="llama",
    context_length=1024,
    precision="Q8_0",
    licence="Apache-2.0",
    created_at_ms=0,
    parameters=5_800_000,
)
LLAMA_8B = dataclasses.replace(
    DEMO,
    path="/models/llama-8b-q4_k_m.gguf",
    size_bytes=4_920_000_000,
    context_length=131_072,
    parameters=8_030_000_000,
)
MINILM = dataclasses.replace(
    DEMO,
    path="/models/minilm-f16.gguf",
    size_bytes=46_000_000,
    architecture="bert",
    context_length=512,
    parameters=22_700_000,
)
MISTRAL_24B = dataclasses.replace(
    DEMO,
    format=WeightsFormat.SAFETENSORS,
    path="/models/Mistral Small 24B",
    size_bytes=47_000_000_000,
    architecture="MistralForCausalLM",
    context_length=32_768,
    parameters=23_600_000_000,
)
DEMO_SAFETENSORS = dataclasses.replace(
    DEMO,
    format=WeightsFormat.SAFETENSORS,
    path="/models/tramontane-demo",
    size_bytes=11_500_000,
    architecture="MistralForCausalLM",
)
ADAPTERS = (AdapterSpec("legal", "mdv_legal"), AdapterSpec("tax", "mdv_tax"))


def adapters_of(spec: DeploymentSpec, version: ModelVersion) -> list[ModelVersion]:
    """Return versions for the adapters of ``spec``, made for ``version``."""
    suffix = ".gguf" if version.format is WeightsFormat.GGUF else ""
    return [
        dataclasses.replace(
            version,
            id=adapter.model_version_id,
            model_id=f"mdl_{adapter.name}",
            path=f"/models/{adapter.name}-lora{suffix}",
            size_bytes=40_000_000,
            base_model_id=version.model_id,
            adapter_rank=rank,
        )
        for adapter, rank in zip(spec.adapters, (8, 24), strict=False)
    ]


def llamacpp(context_length: int = 1024, parallel: int = 4, **more: Any) -> DeploymentSpec:
    return DeploymentSpec("mdv_demo", "llamacpp", 1, context_length, parallel, **more)


def vllm(context_length: int = 8192, parallel: int = 64, **more: Any) -> DeploymentSpec:
    return DeploymentSpec("mdv_demo", "vllm", 1, context_length, parallel, **more)


def options(**named: str) -> dict[str, tuple[tuple[str, str], ...]]:
    return {"engine_options": tuple(named.items())}
