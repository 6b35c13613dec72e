"""What each engine accepts, refuses and needs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines import specs
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.refusal import Code
from tramontane.engines import llamacpp, rules, vllm
from tramontane.engines.options import ChoiceOption, IntegerOption, ShareOption
from tramontane.engines.recipes import RECIPES, default_engine, make_recipes

MIB = 1 << 20
GIB = 1 << 30
TABLES = {"llamacpp": llamacpp.OPTIONS, "vllm": vllm.OPTIONS}
EASY = {
    "llamacpp": (specs.llamacpp(), specs.DEMO),
    "vllm": (specs.vllm(devices=1), specs.MISTRAL_24B),
}


def test_names_and_defaults() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {
        "llamacpp": "llamacpp",
        "vllm": "vllm",
    }
    assert default_engine(specs.DEMO) == "llamacpp"
    assert default_engine(specs.MISTRAL_24B) == "vllm"


@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_on_clusters_that_hand_out_whole_processors_replicas_take_whole_ones(engine: str) -> None:
    spec, version = EASY[engine]
    spec = dataclasses.replace(spec, cpu_millicores=1_100, memory_bytes=(64 << 30) + 1)
    exact, whole = RECIPES[engine], make_recipes(in_whole_units=True)[engine]
    assert (exact.check(spec, version), whole.check(spec, version)) == (None, None)
    need = whole.resources(spec, version)
    assert (need.cpu_millicores, need.memory_bytes) == (2_000, (64 << 30) + MIB)
    assert need.devices == spec.devices
    told = {"served_name": "x", "secret": "s", "device_indexes": tuple(range(spec.devices))}
    launch = exact.launch(spec, version, **told)
    assert launch.resources == exact.resources(spec, version)
    assert whole.launch(spec, version, **told) == dataclasses.replace(launch, resources=need)


REFUSALS: list[tuple[DeploymentSpec, ModelVersion, Code, str, str]] = [
    (
        specs.llamacpp(),
        specs.DEMO_SAFETENSORS,
        Code.UNSUPPORTED_BY_ENGINE,
        "engine",
        "llamacpp serves gguf weights and this model is safetensors: expected engine vllm",
    ),
    (
        specs.vllm(1024),
        specs.DEMO,
        Code.UNSUPPORTED_BY_ENGINE,
        "engine",
        "vllm serves safetensors weights and this model is gguf: expected engine llamacpp",
    ),
    (
        specs.llamacpp(1025),
        specs.DEMO,
        Code.INVALID_VALUE,
        "context_length",
        "context_length is 1025: expected 1 to 1024, which is what the model was made for",
    ),
    (specs.llamacpp(0), specs.DEMO, Code.INVALID_VALUE, "context_length", "expected 1 to 1024"),
    (
        specs.llamacpp(parallel=65),
        specs.DEMO,
        Code.INVALID_VALUE,
        "parallel",
        "parallel is 65: expected 1 to 64 requests at a time",
    ),
    (specs.vllm(parallel=1025), specs.MISTRAL_24B, Code.INVALID_VALUE, "parallel", "1 to 1024"),
    (specs.llamacpp(parallel=-1), specs.DEMO, Code.INVALID_VALUE, "parallel", "parallel is -1"),
    (
        specs.llamacpp(devices=-1),
        specs.DEMO,
        Code.INVALID_VALUE,
        "devices",
        "devices is -1: expected 0 or more",
    ),
    (specs.vllm(devices=-1), specs.MISTRAL_24B, Code.INVALID_VALUE, "devices", "0 or more"),
    (
        specs.llamacpp(cpu_millicores=0),
        specs.DEMO,
        Code.INVALID_VALUE,
        "cpu_millicores",
        "expected at least 1",
    ),
    (
        specs.llamacpp(memory_bytes=1000),
        specs.DEMO,
        Code.INVALID_VALUE,
        "memory_bytes",
        "memory_bytes is 1000: expected at least ",
    ),
    (
        specs.vllm(memory_bytes=1000),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "memory_bytes",
        "what the server itself takes",
    ),
    (
        specs.llamacpp(**specs.options(theads="2")),
        specs.DEMO,
        Code.UNSUPPORTED_BY_ENGINE,
        "engine_options",
        "llamacpp has no option 'theads': it has mode, n_gpu_layers, pooling, prompt_cache_mib, ",
    ),
    (
        specs.llamacpp(**specs.options(threads="many")),
        specs.DEMO,
        Code.INVALID_VALUE,
        "engine_options.threads",
        "engine_options.threads is 'many': expected a whole number from 1 to 256",
    ),
    (
        specs.llamacpp(engine_options=(("threads", "1"), ("threads", "2"))),
        specs.DEMO,
        Code.INVALID_VALUE,
        "engine_options.threads",
        "given twice",
    ),
    (
        specs.llamacpp(**specs.options(n_gpu_layers="10")),
        specs.DEMO,
        Code.INVALID_VALUE,
        "engine_options.n_gpu_layers",
        "expected devices of at least 1, or no n_gpu_layers",
    ),
    (
        specs.llamacpp(cpu_millicores=1500, **specs.options(threads="3")),
        specs.DEMO,
        Code.INVALID_VALUE,
        "engine_options.threads",
        "threads is 3 and cpu_millicores is 1500: expected cpu_millicores of 3000, or fewer",
    ),
    (
        specs.llamacpp(512, **specs.options(mode="chat")),
        specs.MINILM,
        Code.INVALID_VALUE,
        "engine_options.mode",
        "engine_options.mode is chat and bert models only embed: expected embeddings",
    ),
    (
        specs.vllm(devices=4, **specs.options(tensor_parallel_size="2")),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "devices",
        "devices is 4 and tensor_parallel_size x pipeline_parallel_size is 2: expected the same",
    ),
    (
        specs.vllm(devices=3, **specs.options(pipeline_parallel_size="2")),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "devices",
        "expected the same number",
    ),
    (
        specs.vllm(nodes=2),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "devices",
        "nodes is 2 and devices is 0: expected devices on each node",
    ),
    (
        specs.vllm(nodes=2, devices=4, **specs.options(tensor_parallel_size="3")),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "devices",
        "devices x nodes is 8 and tensor_parallel_size x pipeline_parallel_size is 6: expected the",
    ),
    (
        specs.llamacpp(512, nodes=2, devices=1),
        specs.DEMO,
        Code.UNSUPPORTED_BY_ENGINE,
        "nodes",
        "nodes is 2: llamacpp runs on one node only; vllm runs on several",
    ),
    (
        specs.vllm(devices=1, **specs.options(gpu_memory_utilization="0.99")),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "engine_options.gpu_memory_utilization",
        "expected a decimal number from 0.1 to 0.98",
    ),
    (
        specs.vllm(devices=1, **specs.options(tool_call_parser="../x.py")),
        specs.MISTRAL_24B,
        Code.INVALID_VALUE,
        "engine_options.tool_call_parser",
        "expected one of apertus, ",
    ),
    (
        specs.llamacpp(),
        dataclasses.replace(specs.DEMO, path="-x"),
        Code.INVALID_VALUE,
        "model",
        "expected an absolute path without braces or control characters",
    ),
    (
        specs.llamacpp(),
        dataclasses.replace(specs.DEMO, path="/models/{port}"),
        Code.INVALID_VALUE,
        "model",
        "without braces",
    ),
]


@pytest.mark.parametrize(("spec", "version", "code", "param", "message"), REFUSALS)
def test_refusals_say_what_was_expected(
    spec: DeploymentSpec, version: ModelVersion, code: Code, param: str, message: str
) -> None:
    refusal = RECIPES[spec.engine].check(spec, version)
    assert refusal is not None
    assert (refusal.code, refusal.param) == (code, param)
    assert message in refusal.message
    with pytest.raises(ValueError, match="launch of a spec that is refused"):
        RECIPES[spec.engine].resources(spec, version)
    with pytest.raises(ValueError, match="launch of a spec that is refused"):
        RECIPES[spec.engine].launch(spec, version, served_name="a", secret="s", device_indexes=())


hostile = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            *(
                "--trust-remote-code",
                "-c import os",
                "1 --model /etc/passwd",
                "1;rm -rf /",
                "$(id)",
            ),
            *(
                "{python}",
                "{port}",
                "1\n--api-key=x",
                "1\0",
                "\u0661",
                "0x10",
                "1e3",
                " 1",
                "+1",
                "-1",
            ),
            *("/etc/passwd", "../../x", "true --load-format pt", "0.9 ", "0.9\n", "nan", "auto,pt"),
        ]
    ),
)
known = st.sampled_from(sorted({option.name for table in TABLES.values() for option in table}))


@given(
    engine=st.sampled_from(sorted(TABLES)),
    given_options=st.lists(st.tuples(st.one_of(known, hostile), hostile), min_size=1, max_size=4),
)
def test_no_tenant_text_reaches_a_command_line(
    engine: str, given_options: list[tuple[str, str]]
) -> None:
    plain, version = EASY[engine]
    spec = dataclasses.replace(plain, engine_options=tuple(given_options))
    refusal = RECIPES[engine].check(spec, version)
    if refusal is not None:
        assert refusal.param is not None
        assert len(refusal.message) < 700
        return
    table = {option.name: option for option in TABLES[engine]}
    for name, text in given_options:
        option = table[name]
        if isinstance(option, ChoiceOption):
            assert text in option.choices
        elif isinstance(option, IntegerOption):
            assert text.isascii()
            assert text.isdigit()
            assert option.low <= int(text) <= option.high
        else:
            assert text.isascii()
            assert option.low <= round(float(text) * 1000) <= option.high
    launch = RECIPES[engine].launch(spec, version, served_name="a", secret="s", device_indexes=(0,))
    words = {text for _, text in given_options}
    flags = [word for word in launch.argv if word.startswith("-")]
    assert not words & set(flags)
    assert all(word.isprintable() for word in launch.argv)


@given(
    engine=st.sampled_from(sorted(TABLES)),
    data=st.data(),
)
def test_every_accepted_value_is_one_word_after_its_flag(engine: str, data: st.DataObject) -> None:
    plain, version = EASY[engine]
    option = data.draw(st.sampled_from(TABLES[engine]))
    if isinstance(option, ChoiceOption):
        text = data.draw(st.sampled_from(option.choices))
    elif isinstance(option, IntegerOption):
        text = str(data.draw(st.integers(option.low, option.high)))
    else:
        assert isinstance(option, ShareOption)
        text = f"0.{data.draw(st.integers(option.low, option.high)):03}"
    spec = dataclasses.replace(plain, engine_options=((option.name, text),))
    refusal = RECIPES[engine].check(spec, version)
    if refusal is not None:
        assert "devices" in refusal.message  # parallelism and layers go with devices
        return
    launch = RECIPES[engine].launch(spec, version, served_name="a", secret="s", device_indexes=(0,))
    base = RECIPES[engine].launch(plain, version, served_name="a", secret="s", device_indexes=(0,))
    new = [word for word in launch.argv if word not in base.argv]
    assert len(new) <= 3  # a flag or two and the value
    assert launch.argv[:3] == base.argv[:3]
    assert set(launch.env) == set(base.env)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [("0.1", True), ("0.98", True), ("0.981", False), ("0.099", False), ("0.9000", False)]
    + [
        (text, False)
        for text in ("1", "1.0", ".9", "0.", "0,9", "0.9 ", "-0.9", "0.9e0", "\u0660.\u0669")
    ],
)
def test_shares(text: str, *, accepted: bool) -> None:
    assert ShareOption("share", 100, 980).accepts(text) is accepted


# Bytes per token, from the published configurations: layers x KV heads x head size x 4.
PUBLISHED = {
    "demo": (5_800_000, 6 * 2 * 64 * 4),
    "SmolLM-135M": (134_500_000, 30 * 3 * 64 * 4),
    "GPT2-XL": (1_557_600_000, 48 * 25 * 64 * 4),
    "Qwen1.5-0.5B": (464_000_000, 24 * 16 * 64 * 4),
    "Qwen3-0.6B": (596_000_000, 28 * 8 * 128 * 4),
    "MiniCPM-2B": (2_720_000_000, 40 * 36 * 64 * 4),
    "Phi-3-mini": (3_820_000_000, 32 * 32 * 96 * 4),
    "Llama-2-7B": (6_740_000_000, 32 * 32 * 128 * 4),
    "Llama-2-13B": (13_000_000_000, 40 * 40 * 128 * 4),
    "Llama-3-8B": (8_030_000_000, 32 * 8 * 128 * 4),
    "Gemma-7B": (8_540_000_000, 28 * 16 * 256 * 4),
    "Command-R": (35_000_000_000, 40 * 64 * 128 * 4),
    "Llama-3-70B": (70_600_000_000, 80 * 8 * 128 * 4),
    "GPT-3": (175_000_000_000, 96 * 96 * 128 * 4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_estimate_of_keys_and_values_is_never_too_low(name: str) -> None:
    parameters, kv_bytes = PUBLISHED[name]
    version = dataclasses.replace(specs.DEMO, parameters=parameters)
    assert rules.kv_bytes_per_token(version) >= kv_bytes


def test_without_a_count_of_parameters_the_size_gives_the_most() -> None:
    uncounted = dataclasses.replace(specs.DEMO, parameters=None)
    assert rules.kv_bytes_per_token(uncounted) > rules.kv_bytes_per_token(specs.DEMO)


def test_tiny_models_ask_for_little_and_large_ones_for_what_they_take() -> None:
    recipe = RECIPES["llamacpp"]
    tiny = recipe.resources(specs.llamacpp(), specs.DEMO)
    assert tiny.cpu_millicores == 100
    assert 128 * MIB < tiny.memory_bytes < 256 * MIB  # 60 MiB measured
    large = recipe.resources(specs.llamacpp(8192, 2), specs.LLAMA_8B)
    assert large.cpu_millicores == 4000
    assert large.memory_bytes > specs.LLAMA_8B.size_bytes + 2 * 8192 * 131_072
    gpu = RECIPES["vllm"].resources(specs.vllm(devices=2), specs.MISTRAL_24B)
    assert (gpu.devices, gpu.cpu_millicores, gpu.memory_bytes) == (2, 5000, 10 * GIB)


@given(
    context_length=st.integers(1, 131_071), parallel=st.integers(1, 63), threads=st.integers(1, 256)
)
def test_more_work_never_needs_less(context_length: int, parallel: int, threads: int) -> None:
    recipe = RECIPES["llamacpp"]
    chosen = specs.options(threads=str(threads))
    less = recipe.resources(specs.llamacpp(context_length, parallel, **chosen), specs.LLAMA_8B)
    more = recipe.resources(
        specs.llamacpp(context_length + 1, parallel + 1, **chosen), specs.LLAMA_8B
    )
    assert less.fits_in(more)
    assert less.cpu_millicores == 1000 * threads


@pytest.mark.parametrize(("threads", "millicores"), [("1", 100), ("2", 1001), ("2", 2000)])
def test_threads_may_round_the_processors_up(threads: str, millicores: int) -> None:
    spec = specs.llamacpp(cpu_millicores=millicores, **specs.options(threads=threads))
    assert RECIPES["llamacpp"].check(spec, specs.DEMO) is None


def test_overrides_are_taken_as_they_are() -> None:
    spec = specs.llamacpp(cpu_millicores=1500, memory_bytes=GIB)
    needed = RECIPES["llamacpp"].resources(spec, specs.DEMO)
    assert (needed.cpu_millicores, needed.memory_bytes) == (1500, GIB)


@pytest.mark.parametrize(
    ("nodes", "devices", "named", "tensor", "stages"),
    [
        (1, 8, {}, "8", None),
        (4, 8, {}, "8", "4"),  # a stage on each node
        (2, 8, {"tensor_parallel_size": "16"}, "16", "1"),
        (2, 8, {"tensor_parallel_size": "4"}, "4", "4"),
        (2, 6, {"pipeline_parallel_size": "3"}, "4", "3"),
        (1, 8, {"pipeline_parallel_size": "2"}, "4", "2"),
    ],
)
def test_all_devices_of_all_nodes_share_a_model(
    nodes: int, devices: int, named: dict[str, str], tensor: str, stages: str | None
) -> None:
    spec = specs.vllm(nodes=nodes, devices=devices, **specs.options(**named))
    assert RECIPES["vllm"].check(spec, specs.MISTRAL_24B) is None
    indexes = tuple(range(devices))
    launch = RECIPES["vllm"].launch(
        spec, specs.MISTRAL_24B, served_name="a", secret="s", device_indexes=indexes
    )
    words = {"--tensor-parallel-size": tensor, "--pipeline-parallel-size": stages}
    for argv in (launch.argv, launch.worker_argv) if nodes > 1 else (launch.argv,):
        told = {name: argv[argv.index(name) + 1] if name in argv else None for name in words}
        assert told == words | {"--pipeline-parallel-size": stages if stages != "1" else None}
    assert launch.nodes == nodes
    assert launch.resources.devices == devices, "of each node"
    assert ("--headless" in launch.worker_argv) == (nodes > 1)
