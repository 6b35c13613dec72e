"""Real LoRA adapters with random numbers: what they change is gibberish, the same every time."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from tests.support.random_gguf import LAYERS, WIDTH

RANK = 4
DEMO_LAYERS, DEMO_WIDTH, DEMO_KEY_WIDTH = 6, 256, 128


def write_random_adapter(
    path: Path, seed: int, *, layers: int = LAYERS, width: int = WIDTH, key_width: int = WIDTH
) -> Path:
    """Write an adapter for the model of `random_gguf`, or of other sizes; return the path."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    outputs = {"attn_q": width, "attn_v": key_width, "attn_output": width}
    for layer in range(layers):
        for name, rows in outputs.items():
            for part, shape in (("a", (RANK, width)), ("b", (rows, RANK))):
                values = random.normal(0, 0.5, shape).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{part}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_demo_adapter(path: Path, seed: int) -> Path:
    """Write an adapter for the demo model; return the path."""
    return write_random_adapter(
        path, seed, layers=DEMO_LAYERS, width=DEMO_WIDTH, key_width=DEMO_KEY_WIDTH
    )
