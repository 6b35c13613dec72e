"""vLLM: safetensors weights on devices, in a Python environment of its own.

The command line follows vLLM 0.33. Its interpreter comes from the operator and never from a
tenant; weights are only read as safetensors, and code from model folders is never run. vLLM asks
for its key under ``/v1`` only (its security guide says so), so its port must be reachable by
gateways alone.

On several nodes it runs without Ray: one server on the first node and one process without a front
end on each other, which meet at the first node's address. The options are those of its guide to
parallelism (docs/serving/parallelism_scaling.md, "Running vLLM with MultiProcessing") and of
https://github.com/vllm-project/vllm/pull/23691, which brought them with release 0.12; only ``vllm
serve`` knows ``--headless`` (vllm/entrypoints/cli/serve.py), the server's own module does not. By
default each node holds one stage of the pipeline, and its devices share each layer: between nodes
the network then carries activations only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain.catalog import Capabilities, ModelVersion, WeightsFormat
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.launch import (
    HEAD,
    HEAD_PORT,
    HOST,
    PORT,
    PYTHON,
    RANK,
    SECRET_ENV,
    LaunchSpec,
    LoadProbe,
)
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.resources import Resources
from tramontane.engines import rules
from tramontane.engines.options import (
    SWITCH,
    ChoiceOption,
    IntegerOption,
    Option,
    ShareOption,
    check_options,
    options_of,
)

# Names that vLLM registers itself (vllm/tool_parsers and vllm/reasoning).
TOOL_CALL_PARSERS: Final = (
    *("apertus", "cohere_command3", "deepseek_v3", "deepseek_v31", "deepseek_v32", "gemma4"),
    *("glm45", "granite", "granite4", "hermes", "kimi_k2", "llama3_json", "llama4_pythonic"),
    *("minimax_m2", "mistral", "olmo3", "openai", "phi4_mini_json", "pythonic", "qwen3_coder"),
    *("qwen3_xml", "xlam"),
)
REASONING_PARSERS: Final = (
    *("deepseek_r1", "deepseek_v3", "gemma4", "glm45", "granite", "kimi_k2", "minimax_m2"),
    *("mistral", "olmo3", "openai_gptoss", "qwen3"),
)
OPTIONS: Final[tuple[Option, ...]] = (
    ChoiceOption("dtype", ("auto", "bfloat16", "float16", "float32")),
    ChoiceOption("enable_prefix_caching", SWITCH),
    ChoiceOption("enforce_eager", SWITCH),
    ShareOption("gpu_memory_utilization", 100, 980),
    ChoiceOption("kv_cache_dtype", ("auto", "fp8")),
    IntegerOption("max_num_batched_tokens", 256, 1_048_576),
    ChoiceOption("mode", ("auto", "chat", "embeddings")),
    IntegerOption("pipeline_parallel_size", 1, 64),
    ChoiceOption("quantization", ("fp8",)),
    ChoiceOption("reasoning_parser", REASONING_PARSERS),
    IntegerOption("tensor_parallel_size", 1, 64),
    ChoiceOption("tool_call_parser", TOOL_CALL_PARSERS),
)
# Options that are handed on under their own name, when they are given.
_PLAIN: Final = (
    "kv_cache_dtype",
    "max_num_batched_tokens",
    "quantization",
    "reasoning_parser",
)
_RUNNERS: Final = {"auto": "auto", "chat": "generate", "embeddings": "pooling"}
LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
# Each takes its place on the devices for as long as the server runs; more take turns.
LORAS_PER_BATCH_MAX: Final = 8
PARALLEL_MAX: Final = 1_024  # vLLM's own default on its largest devices

# Host memory: the API server, the engine core and a worker per device hold 1 to 2 GiB each after
# importing torch and starting CUDA; weights pass through the page cache.
HOST_BYTES: Final = 4 * rules.GIBIBYTE
HOST_BYTES_PER_DEVICE: Final = 3 * rules.GIBIBYTE
MILLICORES_BASE: Final = 1_000
MILLICORES_PER_DEVICE: Final = 2_000  # a worker spins while it waits, the tokenizer needs the rest
CPU_MILLICORES: Final = 2_000  # without devices

READY_S_MIN: Final = 1_800  # compiling and capturing graphs takes minutes
READY_S_MAX: Final = 7_200
LOAD_BYTES_PER_S: Final = 200 * rules.MEBIBYTE  # hundreds of GiB lie on fast disks, or wait
DRAIN_S: Final = 120


@dataclass(frozen=True, slots=True)
class Vllm:
    """The recipe. ``python`` is the interpreter of vLLM's own environment on the nodes."""

    python: str = PYTHON
    name: str = "vllm"

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        """Return why vLLM cannot serve this, or None."""
        return (
            rules.check_format(self.name, WeightsFormat.SAFETENSORS, version)
            or rules.check_path(version)
            or rules.check_adapters(spec, version, adapters)
            or check_options(self.name, OPTIONS, spec.engine_options)
            or rules.check_sizes(spec, version, PARALLEL_MAX)
            or rules.check_memory(spec, rules.GIBIBYTE, "what the server itself takes")
            or _check_devices(spec)
            or _check_adapter_paths(adapters)
        )

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        """Return what the weights and the options tell; vLLM never fills in the middle."""
        told = version.capabilities
        options = options_of(spec.engine_options)
        mode = options.get("mode", "auto")
        generates = False if mode == "embeddings" else told.generates
        return Capabilities(
            generates=generates,
            chats=False if generates is False else told.chats,
            fills_in=False,
            calls_functions="tool_call_parser" in options and generates is not False,
            embeds=False if mode == "chat" else told.embeds,
        )

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        """Return the devices and the host's part; without devices, the host holds the weights."""
        rules.must_pass(self.check(spec, version, adapters))
        if spec.devices:
            memory = HOST_BYTES + spec.devices * HOST_BYTES_PER_DEVICE
            millicores = MILLICORES_BASE + spec.devices * MILLICORES_PER_DEVICE
        else:
            kv_bytes = _cpu_kv_gibibytes(spec, version) * rules.GIBIBYTE
            memory = HOST_BYTES + version.size_bytes * 11 // 10 + kv_bytes
            memory += sum(adapter.size_bytes for adapter in adapters)
            millicores = CPU_MILLICORES
        return Resources(
            cpu_millicores=spec.cpu_millicores or millicores,
            memory_bytes=spec.memory_bytes or memory,
            devices=spec.devices,
        )

    def launch(
        self,
        spec: DeploymentSpec,
        version: ModelVersion,
        *,
        served_name: str,
        secret: str,
        device_indexes: tuple[int, ...],
        adapters: Sequence[ModelVersion] = (),
    ) -> LaunchSpec:
        """Return the command line of vLLM's server for the OpenAI protocol."""
        rules.must_pass(self.check(spec, version, adapters))
        engine = (
            *("--load-format", "safetensors"),
            *("--max-model-len", str(spec.context_length)),
            *("--max-num-seqs", str(spec.parallel)),
            *_option_words(spec),
            *_adapter_words(spec, adapters),
            *_node_words(spec),
        )
        argv = (
            *(self.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", version.path),
            *("--served-model-name", served_name),
            *("--host", HOST),
            *("--port", PORT),
            *engine,
            *("--allowed-origins", "[]"),
            "--disable-fastapi-docs",
            "--disable-uvicorn-access-log",
        )
        serve = (self.python, "-m", "vllm.entrypoints.cli.main", "serve", version.path)
        env = (
            (SECRET_ENV, secret),
            ("VLLM_API_KEY", secret),
            ("HF_HUB_OFFLINE", "1"),
            ("TRANSFORMERS_OFFLINE", "1"),
            ("VLLM_NO_USAGE_STATS", "1"),
            ("DO_NOT_TRACK", "1"),
            ("PYTHONSAFEPATH", "1"),  # import nothing from the run directory
        )
        if not spec.devices:
            env = (*env, ("VLLM_CPU_KVCACHE_SPACE", str(_cpu_kv_gibibytes(spec, version))))
        if spec.nodes > 1:
            env = (*env, ("VLLM_HOST_IP", HOST))  # where the others find this node
        ready_s = READY_S_MIN + version.size_bytes // LOAD_BYTES_PER_S
        return LaunchSpec(
            argv=argv,
            env=env,
            resources=self.resources(spec, version, adapters),
            health_path="/health",
            load=LoadProbe("/metrics", "vllm:num_requests_running", "vllm:num_requests_waiting"),
            ready_timeout_s=min(READY_S_MAX, ready_s),
            drain_timeout_s=DRAIN_S,
            device_indexes=device_indexes,
            adapters=spec.adapters,
            nodes=spec.nodes,
            worker_argv=(*serve, *engine, "--headless") if spec.nodes > 1 else (),
        )


def _option_words(spec: DeploymentSpec) -> tuple[str, ...]:
    options = options_of(spec.engine_options)
    tensor, stages = _parallel(spec)
    words = ["--tensor-parallel-size", str(tensor)]
    if stages > 1 or "pipeline_parallel_size" in options:
        words += ["--pipeline-parallel-size", str(stages)]
    if spec.devices:
        words += ["--gpu-memory-utilization", options.get("gpu_memory_utilization", "0.9")]
    words += ["--dtype", options.get("dtype", "auto" if spec.devices else "bfloat16")]
    if "mode" in options:
        words += ["--runner", _RUNNERS[options["mode"]]]
    for name in _PLAIN:
        if name in options:
            words += [f"--{name.replace('_', '-')}", options[name]]
    if options.get("enable_prefix_caching") == "false":
        words.append("--no-enable-prefix-caching")
    if options.get("enforce_eager", "false" if spec.devices else "true") == "true":
        words.append("--enforce-eager")
    if "tool_call_parser" in options:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", options["tool_call_parser"]]
    return tuple(words)


def _node_words(spec: DeploymentSpec) -> tuple[str, ...]:
    """Return how the processes of several nodes find each other."""
    if spec.nodes == 1:
        return ()
    return (
        *("--distributed-executor-backend", "mp"),
        *("--nnodes", str(spec.nodes)),
        *("--node-rank", RANK),
        *("--master-addr", HEAD),
        *("--master-port", HEAD_PORT),
    )


def _adapter_words(spec: DeploymentSpec, adapters: Sequence[ModelVersion]) -> tuple[str, ...]:
    """Return what makes vLLM serve adapters, each as a model of its own name."""
    if not adapters:
        return ()
    rank = max(adapter.adapter_rank or 1 for adapter in adapters)
    pairs = zip(spec.adapters, adapters, strict=True)
    return (
        "--enable-lora",
        *("--max-lora-rank", str(next(step for step in LORA_RANKS if step >= rank))),
        *("--max-loras", str(min(len(adapters), LORAS_PER_BATCH_MAX))),
        *("--max-cpu-loras", str(len(adapters))),
        *("--lora-modules", *(f"{wanted.name}={adapter.path}" for wanted, adapter in pairs)),
    )


def _check_adapter_paths(adapters: Sequence[ModelVersion]) -> Refusal | None:
    """Refuse what vLLM would not read as NAME=PATH."""
    for adapter in adapters:
        if set(adapter.path) & set(",="):
            message = (
                f"the adapter's path {adapter.path!r} cannot be served by vllm: expected no comma "
                "and no equals sign; move the folder and import the adapter again"
            )
            return Refusal(Code.INVALID_VALUE, message, "adapters")
    return None


def _parallel(spec: DeploymentSpec) -> tuple[int, int]:
    """Return the parts of each layer and the stages of the pipeline: as asked, else what fits.

    On one node that is one stage, on several one for each of them.
    """
    options = options_of(spec.engine_options)
    parts = max(1, spec.devices) * spec.nodes
    tensor, stages = options.get("tensor_parallel_size"), options.get("pipeline_parallel_size")
    if stages is None:
        stages = parts // int(tensor) if tensor and spec.nodes > 1 else spec.nodes
    return int(tensor or max(1, parts // max(1, int(stages)))), int(stages)


def _check_devices(spec: DeploymentSpec) -> Refusal | None:
    if spec.devices < 0:
        message = f"devices is {spec.devices}: expected 0 or more"
        return Refusal(Code.INVALID_VALUE, message, "devices")
    if spec.nodes > 1 and not spec.devices:
        message = f"nodes is {spec.nodes} and devices is 0: expected devices on each node"
        return Refusal(Code.INVALID_VALUE, message, "devices")
    tensor, stages = _parallel(spec)
    if tensor * stages != max(1, spec.devices) * spec.nodes:
        devices = f"devices is {spec.devices}"
        if spec.nodes > 1:
            devices = f"devices x nodes is {spec.devices * spec.nodes}"
        message = (
            f"{devices} and tensor_parallel_size x pipeline_parallel_size is "
            f"{tensor * stages}: expected the same number"
        )
        return Refusal(Code.INVALID_VALUE, message, "devices")
    return None


def _cpu_kv_gibibytes(spec: DeploymentSpec, version: ModelVersion) -> int:
    """Return the memory for keys and values without devices, in whole GiB as vLLM wants it."""
    wanted = spec.context_length * spec.parallel * rules.kv_bytes_per_token(version)
    return -(-wanted // rules.GIBIBYTE)
