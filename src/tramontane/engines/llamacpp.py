"""llama.cpp, embedded through xllamacpp: GGUF weights, without or with devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.catalog import Capabilities, ModelVersion, WeightsFormat
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.launch import HOST, PORT, PYTHON, SECRET_ENV, LaunchSpec, LoadProbe
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.resources import Resources
from tramontane.domain.weights.abilities import GGUF_ENCODERS
from tramontane.engines import rules
from tramontane.engines.options import (
    ChoiceOption,
    IntegerOption,
    Option,
    check_options,
    options_of,
)

OPTIONS: Final[tuple[Option, ...]] = (
    # What to serve. "all" (default): chat, completions and embeddings, which costs chat nothing.
    ChoiceOption("mode", ("all", "chat", "embeddings")),
    IntegerOption("n_gpu_layers", 0, 999),
    # How the vectors of tokens become one; "auto": as the weights say, else the last token's.
    ChoiceOption("pooling", ("auto", "mean", "cls", "last")),
    # Memory for the prompts of earlier requests, besides those that the slots still hold.
    IntegerOption("prompt_cache_mib", 0, 65_536),
    IntegerOption("threads", 1, 256),
)
PARALLEL_MAX: Final = 64  # llama.cpp decodes all slots in one batch; beyond, vLLM is the engine

# Threads of a replica wait for each other, so a second one beside a busy neighbour costs 20-fold
# (measured with 5.8 million parameters). Large models repay them.
BYTES_PER_THREAD: Final = rules.GIBIBYTE
THREADS_DEFAULT_MAX: Final = 4
# Below this a replica's thread is idle but for milliseconds: ask for a tenth of a processor, so
# that several replicas fit on a laptop.
TINY_BYTES: Final = 256 * rules.MEBIBYTE
TINY_MILLICORES: Final = 100

# Measured: 37 MiB for the server and a model of 0.5 MB, 90 MiB with 6 MB and ten requests; other
# builds have larger libraries.
PROCESS_BYTES: Final = 128 * rules.MEBIBYTE
# Compute buffers: half of the weights up to 1 GiB. An 8B model's take 0.3 to 0.6 GiB with batches
# of 512; a small model's are dominated by its vocabulary (512 x 150,000 x 4 bytes = 0.3 GiB).
BUFFERS_BYTES_MAX: Final = rules.GIBIBYTE
# Grouped-query attention: eight query heads share keys and values in Llama 3 70B, four in 8B.
KV_DIVISOR_MAX: Final = 8
CONTEXT_STEP: Final = 256  # llama.cpp rounds the context of a slot up to this

READY_S_MIN: Final = 60
READY_S_MAX: Final = 3_600
LOAD_BYTES_PER_S: Final = 50 * rules.MEBIBYTE  # a slow network disk
DRAIN_S: Final = 60
DEVICE_LAYERS_ALL: Final = 999


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """The recipe. Its process is `tramontane.llama_server`."""

    name: str = "llamacpp"

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        """Return why llama.cpp cannot serve this, or None."""
        return (
            rules.check_format(self.name, WeightsFormat.GGUF, version)
            or rules.check_path(version)
            or rules.check_adapters(spec, version, adapters)
            or check_options(self.name, OPTIONS, spec.engine_options)
            or rules.check_sizes(spec, version, PARALLEL_MAX)
            or _check_threads(spec)
            or _check_devices(spec)
            or _check_mode(spec, version)
            or rules.check_memory(
                spec,
                _bytes_needed(spec, version, adapters, kv_divisor=KV_DIVISOR_MAX),
                "or a smaller context, parallel or prompt_cache_mib",
            )
        )

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        """Return what the weights tell; llama.cpp calls functions with any of them that chats.

        Models without a chat template are asked in ChatML, which they were not made for.
        """
        told = version.capabilities
        if version.architecture in GGUF_ENCODERS:
            told = replace(told, generates=False, chats=False, fills_in=False, embeds=True)
        mode = options_of(spec.engine_options).get("mode", "all")
        embeds = False if mode == "chat" else told.embeds is not False
        return replace(told, calls_functions=told.chats, embeds=embeds)

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        """Return weights + a tenth, keys and values of the whole context, buffers, the process.

        When all layers are on devices, keys and values are there too.
        """
        rules.must_pass(self.check(spec, version, adapters))
        options = options_of(spec.engine_options)
        is_tiny = version.size_bytes < TINY_BYTES and "threads" not in options
        millicores = TINY_MILLICORES if is_tiny else 1000 * _threads(spec, version)
        return Resources(
            cpu_millicores=spec.cpu_millicores or millicores,
            memory_bytes=spec.memory_bytes or _bytes_needed(spec, version, adapters),
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
        """Return the command line of the embedded server."""
        rules.must_pass(self.check(spec, version, adapters))
        options = options_of(spec.engine_options)
        mode = options.get("mode", "embeddings" if version.architecture in GGUF_ENCODERS else "all")
        layers = options.get("n_gpu_layers", str(DEVICE_LAYERS_ALL if spec.devices else 0))
        argv = (
            *(PYTHON, "-m", "tramontane.llama_server"),
            *("--model", version.path),
            *("--alias", served_name),
            *("--host", HOST),
            *("--port", PORT),
            *("--context-length", str(spec.context_length)),
            *("--parallel", str(spec.parallel)),
            *("--threads", str(_threads(spec, version))),
            *("--mode", mode),
            *("--pooling", options.get("pooling", "auto")),
            *("--gpu-layers", layers),
            *("--prompt-cache-mib", options.get("prompt_cache_mib", "0")),
            *(word for adapter in adapters for word in ("--adapter", adapter.path)),
        )
        env = (
            (SECRET_ENV, secret),
            ("OMP_WAIT_POLICY", "passive"),
            ("PYTHONSAFEPATH", "1"),  # import nothing from the run directory
            ("PYTHONUNBUFFERED", "1"),
        )
        ready_s = READY_S_MIN + version.size_bytes // LOAD_BYTES_PER_S
        return LaunchSpec(
            argv=argv,
            env=env,
            resources=self.resources(spec, version, adapters),
            health_path="/health",
            load=LoadProbe(
                "/metrics", "llamacpp:requests_processing", "llamacpp:requests_deferred"
            ),
            ready_timeout_s=min(READY_S_MAX, ready_s),
            drain_timeout_s=DRAIN_S,
            device_indexes=device_indexes,
            adapters=spec.adapters,
        )


def _bytes_needed(
    spec: DeploymentSpec,
    version: ModelVersion,
    adapters: Sequence[ModelVersion],
    *,
    kv_divisor: int = 1,
) -> int:
    """Return the bytes that a replica may come to need.

    ``kv_divisor`` says how many query heads share one head of keys and values: 1 for the safe
    estimate, `KV_DIVISOR_MAX` for what no override of a tenant may go below.
    """
    options = options_of(spec.engine_options)
    slot_tokens = -(-spec.context_length // CONTEXT_STEP) * CONTEXT_STEP
    kv_bytes = slot_tokens * spec.parallel * rules.kv_bytes_per_token(version)
    return (
        version.size_bytes * 11 // 10
        + (0 if spec.devices and "n_gpu_layers" not in options else kv_bytes // kv_divisor)
        + min(BUFFERS_BYTES_MAX, version.size_bytes // 2)
        + int(options.get("prompt_cache_mib", "0")) * rules.MEBIBYTE
        + sum(adapter.size_bytes for adapter in adapters)
        + PROCESS_BYTES
    )


def _threads(spec: DeploymentSpec, version: ModelVersion) -> int:
    """Return the threads asked for, else as many as the processors asked for, else by size."""
    asked = options_of(spec.engine_options).get("threads")
    if asked is not None:
        return int(asked)
    if spec.cpu_millicores is not None:
        return max(1, spec.cpu_millicores // 1000)
    return min(THREADS_DEFAULT_MAX, 1 + version.size_bytes // BYTES_PER_THREAD)


def _check_threads(spec: DeploymentSpec) -> Refusal | None:
    """Refuse threads that would take processors which were not asked for."""
    threads = int(options_of(spec.engine_options).get("threads", "1"))
    if spec.cpu_millicores is None or threads * 1000 < spec.cpu_millicores + 1000:
        return None
    message = (
        f"engine_options.threads is {threads} and cpu_millicores is {spec.cpu_millicores}: "
        f"expected cpu_millicores of {threads * 1000}, or fewer threads"
    )
    return Refusal(Code.INVALID_VALUE, message, "engine_options.threads")


def _check_devices(spec: DeploymentSpec) -> Refusal | None:
    if spec.devices < 0:
        message = f"devices is {spec.devices}: expected 0 or more"
        return Refusal(Code.INVALID_VALUE, message, "devices")
    if spec.nodes != 1:
        message = f"nodes is {spec.nodes}: llamacpp runs on one node only; vllm runs on several"
        return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "nodes")
    layers = options_of(spec.engine_options).get("n_gpu_layers", "0")
    if layers != "0" and spec.devices == 0:
        message = (
            f"engine_options.n_gpu_layers is {layers} and devices is 0: expected devices of at "
            "least 1, or no n_gpu_layers"
        )
        return Refusal(Code.INVALID_VALUE, message, "engine_options.n_gpu_layers")
    return None


def _check_mode(spec: DeploymentSpec, version: ModelVersion) -> Refusal | None:
    mode = options_of(spec.engine_options).get("mode", "embeddings")
    if version.architecture in GGUF_ENCODERS and mode != "embeddings":
        message = (
            f"engine_options.mode is {mode} and {version.architecture} models only embed: "
            "expected embeddings"
        )
        return Refusal(Code.INVALID_VALUE, message, "engine_options.mode")
    return None
