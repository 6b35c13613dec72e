"""The embedded engine: one GGUF model served by llama.cpp, in a process of its own.

It turns command-line arguments into the parameters of `xllamacpp.Server` and waits for a signal.
The secret that callers must show comes from the environment, never from the command line. It must
run for ever without costing anything while no request is there, and end at once when told to.
"""

import argparse
import importlib
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

SECRET_ENV: Final = "TRAMONTANE_REPLICA_SECRET"  # noqa: S105 (a name, not a secret)
EX_UNAVAILABLE: Final = 69  # sysexits.h: this machine cannot run it
EX_NOINPUT: Final = 66  # sysexits.h: the weights cannot be read

# What the x86-64 wheels of xllamacpp are compiled for (`xllamacpp.get_system_info()`); without
# them the import itself dies from an illegal instruction.
X86_FEATURES: Final = ("avx", "avx2", "bmi2", "f16c", "fma", "sse3", "ssse3")
_CPUINFO_NAMES: Final = {"sse3": "pni"}

# Metadata comes before the tensors, and its scalars before the tokens: see the GGUF
# specification (ggml/docs/gguf.md) and the order in which llama.cpp's converters write.
METADATA_BYTES: Final = 1 << 20
LOG_ERRORS: Final = 1  # louder levels quote pieces of requests in the log
LOGGED_AFTER_S: Final = 0.5
CHECKPOINTS_MAX: Final = 4  # per slot, for models with sliding windows; 32 would fill the memory
# Each request holds one while it runs or waits, and one more answers the health check: with the
# default of parallel + 2, a few callers too many made a working server look dead. 8 kB each.
HTTP_THREADS: Final = 256
MODES: Final = ("all", "chat", "embeddings")
POOLINGS: Final = ("auto", "mean", "cls", "last")


def main(argv: list[str]) -> int:
    """Serve until told to end; return an exit status (0 after SIGTERM or SIGINT)."""
    args = _parse(argv)
    if missing := missing_x86_features():
        sys.stderr.write(
            f"llama_server: this processor lacks {', '.join(missing)}, which the xllamacpp wheel "
            "needs; build xllamacpp from source on this machine, or use another machine\n"
        )
        return EX_UNAVAILABLE
    for path in (args.model, *args.adapter):
        if not Path(path).is_file():
            sys.stderr.write(f"llama_server: {path} is not a file: expected GGUF weights\n")
            return EX_NOINPUT
    # OpenMP reads this when the library is loaded: waiting threads sleep instead of spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    awaited = {signal.SIGTERM, signal.SIGINT}
    # Inherited by the engine's threads. What came blocked is between others: Slurm's SIGTERM.
    awaited -= signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    return _serve(args, awaited)


def missing_x86_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the processor features that the wheel needs and this machine lacks."""
    if platform.machine() != "x86_64":
        return []
    try:
        text = cpuinfo.read_text()
    except OSError:
        return []  # not Linux, or hidden: let it try
    flags = {flag for line in text.splitlines() if line[:5] == "flags" for flag in line.split()}
    return [name for name in X86_FEATURES if _CPUINFO_NAMES.get(name, name) not in flags]


def declares_pooling(model: Path) -> bool:
    """Tell whether the weights say how to make one embedding of many (encoder models do)."""
    with model.open("rb") as file:
        return b".pooling_type" in file.read(METADATA_BYTES)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama_server", description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="name of the model in requests and replies")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context-length", type=int, required=True, help="tokens per request")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at a time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--mode", choices=MODES, default="all", help="what to serve (default: chat and embeddings)"
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        default="auto",
        help="how embeddings are made; auto: as the weights say, else from the last token",
    )
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers kept on devices")
    parser.add_argument(
        "--prompt-cache-mib", type=int, default=0, help="memory for prompts of earlier requests"
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        help="GGUF file of a LoRA adapter, any number of times; applied by requests that ask for "
        "it by its number, which counts from 0",
    )
    return parser.parse_args(argv)


def _serve(args: argparse.Namespace, awaited: set[signal.Signals]) -> int:
    # Imported only now: the processor is known to bear it, and OpenMP's setting is in place.
    engine: Any = importlib.import_module("xllamacpp")
    if args.gpu_layers and not _has_device(engine):
        sys.stderr.write(
            "llama_server: this build of xllamacpp drives no accelerator; install its CUDA wheel, "
            "or ask for no devices\n"
        )
        return EX_UNAVAILABLE
    started = time.monotonic()
    try:
        server = engine.Server(_parameters(engine, args))
    except RuntimeError:
        # llama.cpp has told the reason to a thread of its own, which writes it to standard error.
        time.sleep(LOGGED_AFTER_S)
        sys.stderr.write(f"llama_server: {args.model} could not be loaded, see the lines above\n")
        sys.stderr.flush()
        os._exit(1)
    print(  # noqa: T201 (this is the engine's log)
        f"serving {args.alias} at {server.listening_address} after "
        f"{time.monotonic() - started:.2f} s: mode {args.mode}, {args.parallel} requests of "
        f"{args.context_length} tokens, {args.threads} threads",
        flush=True,
    )
    signal.sigwait(awaited)
    # The destructor would wait for streams that still run; the runner has drained by now.
    os._exit(0)


def _parameters(engine: Any, args: argparse.Namespace) -> Any:
    """Return the `CommonParams` for ``args``; every trap that was found is set here on purpose."""
    parameters = engine.CommonParams()
    parameters.model.path = args.model
    parameters.model_alias = {args.alias}
    parameters.hostnames = [args.host]
    parameters.port = args.port
    # llama.cpp divides n_ctx among the slots.
    parameters.n_ctx = args.context_length * args.parallel
    parameters.n_parallel = args.parallel
    parameters.cpuparams.n_threads = args.threads
    parameters.cpuparams_batch.n_threads = args.threads
    parameters.n_gpu_layers = args.gpu_layers
    parameters.fit_params = False  # it would change what was asked for without a word
    parameters.cache_ram_mib = args.prompt_cache_mib  # 8 GiB by default
    parameters.cache_idle_slots = args.prompt_cache_mib > 0
    parameters.n_ctx_checkpoints = CHECKPOINTS_MAX
    parameters.offline = True
    parameters.ui = False
    parameters.cors_origins = ""  # "*" by default
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False  # it shows prompts
    parameters.n_threads_http = max(HTTP_THREADS, args.parallel + 8)
    parameters.verbosity = LOG_ERRORS
    # Scale 0: a request that names none gets the plain model.
    parameters.lora_adapters = [engine.CommonAdapterLoraInfo(path, 0.0) for path in args.adapter]
    if secret := os.environ.get(SECRET_ENV):
        parameters.api_keys = [secret]
    if args.mode != "chat":
        _enable_embeddings(engine, parameters, args)
    return parameters


def _enable_embeddings(engine: Any, parameters: Any, args: argparse.Namespace) -> None:
    """Serve /v1/embeddings too: chat stays as fast and answers the same (measured).

    A causal model's last token has seen all others, so "last" is its natural pooling, and the
    only one whose input may be longer than a batch (otherwise the engine answers 500).
    """
    parameters.embedding = True
    pooling = args.pooling
    if pooling == "auto" and not declares_pooling(Path(args.model)):
        pooling = "last"
    if pooling != "auto":
        name = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        parameters.pooling_type = getattr(engine.llama_pooling_type, name)
    if pooling != "last":
        parameters.n_batch = parameters.n_ubatch = max(512, args.context_length)


def _has_device(engine: Any) -> bool:
    return any(device["type"].name.endswith("GPU") for device in engine.get_device_info())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
