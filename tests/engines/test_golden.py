"""Full command lines and environments, as a person last agreed to them."""

from pathlib import Path

import pytest

from tests.engines import specs
from tests.support.golden import assert_golden
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.launch import LaunchSpec
from tramontane.engines.recipes import RECIPES, make_recipes

GOLDEN = Path(__file__).parents[1] / "golden" / "engines"
CASES = {
    "llamacpp-demo": (specs.llamacpp(), specs.DEMO, ()),
    "llamacpp-8b": (
        specs.llamacpp(8192, 2, cpu_millicores=6500, memory_bytes=12 << 30),
        specs.LLAMA_8B,
        (),
    ),
    "llamacpp-device": (
        specs.llamacpp(
            16_384, 8, devices=1, **specs.options(mode="chat", prompt_cache_mib="2048", threads="2")
        ),
        specs.LLAMA_8B,
        (3,),
    ),
    "llamacpp-adapters": (specs.llamacpp(adapters=specs.ADAPTERS), specs.DEMO, ()),
    "llamacpp-embeddings": (specs.llamacpp(512, 8), specs.MINILM, ()),
    "vllm-one-device": (specs.vllm(devices=1), specs.MISTRAL_24B, (0,)),
    "vllm-eight-devices": (
        specs.vllm(
            32_768,
            256,
            devices=8,
            **specs.options(
                dtype="bfloat16",
                enable_prefix_caching="false",
                enforce_eager="true",
                gpu_memory_utilization="0.92",
                kv_cache_dtype="fp8",
                max_num_batched_tokens="16384",
                pipeline_parallel_size="2",
                quantization="fp8",
                reasoning_parser="mistral",
                tensor_parallel_size="4",
                tool_call_parser="mistral",
            ),
        ),
        specs.MISTRAL_24B,
        (0, 1, 2, 3, 4, 5, 6, 7),
    ),
    "vllm-two-nodes": (
        specs.vllm(devices=8, nodes=2, adapters=specs.ADAPTERS),
        specs.MISTRAL_24B,
        (0, 1, 2, 3, 4, 5, 6, 7),
    ),
    "vllm-adapters": (
        specs.vllm(devices=1, adapters=specs.ADAPTERS),
        specs.MISTRAL_24B,
        (0,),
    ),
    "vllm-embeddings": (
        specs.vllm(512, 32, devices=1, **specs.options(mode="embeddings")),
        specs.DEMO_SAFETENSORS,
        (1,),
    ),
    "vllm-without-devices": (specs.vllm(1024, 4), specs.DEMO_SAFETENSORS, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_command_line_and_environment(case: str) -> None:
    spec, version, indexes = CASES[case]
    launch = _launch(spec, version, indexes)
    assert_golden(GOLDEN / f"{case}.txt", _show(launch))


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_in_the_environment_only(case: str) -> None:
    spec, version, indexes = CASES[case]
    launch = _launch(spec, version, indexes)
    assert not any(specs.SECRET in word for word in (*launch.argv, *launch.worker_argv))
    assert ("TRAMONTANE_REPLICA_SECRET", specs.SECRET) in launch.env
    names = [name for name, _ in launch.env]
    assert len(names) == len(set(names))


def test_the_interpreter_of_vllm_is_the_operators() -> None:
    recipe = make_recipes(vllm_python="/opt/vllm/bin/python")["vllm"]
    launch = recipe.launch(
        specs.vllm(devices=1), specs.MISTRAL_24B, served_name="a", secret="s", device_indexes=(0,)
    )
    assert launch.argv[0] == "/opt/vllm/bin/python"


def _launch(spec: DeploymentSpec, version: ModelVersion, indexes: tuple[int, ...]) -> LaunchSpec:
    recipe = RECIPES[spec.engine]
    adapters = specs.adapters_of(spec, version)
    assert recipe.check(spec, version, adapters) is None
    launch = recipe.launch(
        spec,
        version,
        served_name="small-talk",
        secret=specs.SECRET,
        device_indexes=indexes,
        adapters=adapters,
    )
    assert launch.adapters == spec.adapters
    return launch


def _show(launch: LaunchSpec) -> str:
    probe = launch.load
    assert probe is not None
    return "\n".join(
        [
            *(f"argv  {word}" for word in launch.argv),
            *(f"other {word}" for word in launch.worker_argv),
            *(f"env   {name}={value}" for name, value in launch.env),
            f"needs {launch.resources.describe()}",
            f"sees  devices {list(launch.device_indexes)}",
            f"waits {launch.ready_timeout_s} s for {launch.health_path}",
            f"load  {probe.path} {probe.running_series} {probe.waiting_series}",
            f"drain {launch.drain_timeout_s} s",
            "",
        ]
    )
