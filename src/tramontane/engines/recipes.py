"""The engines that exist, by name."""

from collections.abc import Mapping
from typing import Final

from tramontane.domain.catalog import ModelVersion, WeightsFormat
from tramontane.domain.launch import PYTHON
from tramontane.engines.llamacpp import LlamaCpp
from tramontane.engines.recipe import EngineRecipe
from tramontane.engines.vllm import Vllm
from tramontane.engines.whole_units import InWholeUnits


def make_recipes(
    *, vllm_python: str = PYTHON, in_whole_units: bool = False
) -> Mapping[str, EngineRecipe]:
    """Return all recipes; ``vllm_python`` is the operator's choice of vLLM's interpreter.

    ``in_whole_units``: there are clusters that hand out whole processors, such as Slurm's.
    """
    recipes: list[EngineRecipe] = [LlamaCpp(), Vllm(python=vllm_python)]
    if in_whole_units:
        recipes = [InWholeUnits(recipe) for recipe in recipes]
    return {recipe.name: recipe for recipe in recipes}


RECIPES: Final = make_recipes()


def default_engine(version: ModelVersion) -> str:
    """Return the engine for a model when none is named: the one that reads its format."""
    return "llamacpp" if version.format is WeightsFormat.GGUF else "vllm"
