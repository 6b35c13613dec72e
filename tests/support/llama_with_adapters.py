"""llama.cpp with LoRA adapters loaded: our server's options, and ``--adapter FILE`` for each.

The adapters are random; what they change is gibberish, but the same gibberish every time.
"""

import signal
import sys
from pathlib import Path

import numpy as np
import xllamacpp
from gguf import GGUFWriter

from tests.support.random_gguf import LAYERS, WIDTH
from tramontane import llama_server

RANK = 4


def write_random_adapter(path: Path, seed: int) -> Path:
    """Write an adapter for the model of `random_gguf` to ``path``; return the path."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_v", "attn_output"):
            for part, shape in (("a", (RANK, WIDTH)), ("b", (WIDTH, RANK))):
                values = random.normal(0, 0.5, shape).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{part}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    """Serve until killed."""
    argv, adapters = sys.argv[1:], []
    while "--adapter" in argv:
        at = argv.index("--adapter")
        adapters.append(xllamacpp.CommonAdapterLoraInfo(argv[at + 1], 1.0))
        del argv[at : at + 2]
    parameters = llama_server._parameters(xllamacpp, llama_server._parse(argv))
    parameters.lora_adapters = adapters
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
