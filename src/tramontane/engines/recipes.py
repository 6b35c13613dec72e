"""The engines that exist, by name."""

from collections.abc import Mapping
from typing import Final

from tramontane.domain.catalog import ModelVersion, WeightsFormat
from tramontane.domain.launch import PYTHON
from tramontane.engines.llamacpp import LlamaCpp
from tramontane.engines.recipe import EngineRecipe
from tramontane.engines.vllm import Vllm


def make_recipes(*, vllm_python: str = PYTHON) -> Mapping[str, EngineRecipe]:
    """Return all recipes; ``vllm_python`` is the operator's choice of vLLM's interpreter."""
    llamacpp, vllm = LlamaCpp(), Vllm(python=vllm_python)
    return {llamacpp.name: llamacpp, vllm.name: vllm}


RECIPES: Final = make_recipes()


def default_engine(version: ModelVersion) -> str:
    """Return the engine for a model when none is named: the one that reads its format."""
    return "llamacpp" if version.format is WeightsFormat.GGUF else "vllm"
