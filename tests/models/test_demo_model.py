"""The demo model that the repository carries is the one its recipe makes.

Needs `gguf` and `numpy`; never torch.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import chat
import convert
import data
import gguf
import pytest

DEMO = Path(data.__file__).parent
SOURCE = DEMO / "safetensors"
GGUF_FILE = DEMO / "tramontane-demo-q8_0.gguf"


# The files.


def test_the_converter_reproduces_the_committed_gguf(tmp_path: Path) -> None:
    made = tmp_path / "made.gguf"
    convert.convert(SOURCE, made, "q8_0")
    assert made.read_bytes() == GGUF_FILE.read_bytes()


def test_the_converter_refuses_weights_that_are_not_float16(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"model.norm.weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"model\.norm\.weight is F32, expected F16"):
        convert.read_safetensors(path)


def test_the_gguf_says_what_it_is() -> None:
    reader = gguf.GGUFReader(GGUF_FILE)
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert said["general.name"] == "Tramontane demo"
    assert said["general.license"] == "apache-2.0"
    assert said["llama.context_length"] == 2048
    assert said["tokenizer.chat_template"] == chat.CHAT_TEMPLATE
    tokens = said["tokenizer.ggml.tokens"]
    assert len(tokens) == said["llama.vocab_size"] == 4096
    assert tokens[said["tokenizer.ggml.eos_token_id"]] == chat.TURN_END


def test_the_committed_weights_stay_small() -> None:
    weights = [path for path in DEMO.rglob("*") if path.suffix in (".gguf", ".safetensors")]
    assert len(weights) == 2
    assert sum(path.stat().st_size for path in weights) < 20_000_000


def test_the_model_card_names_licence_limits_and_recipe() -> None:
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    for said in ("Apache-2.0", "by heart", "does not generalise", "train.py", "convert.py"):
        assert said in card


# The data.


def test_no_question_has_two_answers() -> None:
    answers: dict[str, set[str]] = {}
    for ask, answer in data.catalogue():
        plain = re.sub(r"[\s?.!,]+", " ", ask.lower()).strip() or ask
        answers.setdefault(plain, set()).add(answer)
    assert len(answers) > 5_000
    assert {ask: found for ask, found in answers.items() if len(found) > 1} == {}


def test_a_seed_gives_the_same_conversations() -> None:
    first, second = random.Random(4711), random.Random(4711)
    drawn = [data.conversation(first) for _ in range(200)]
    assert drawn == [data.conversation(second) for _ in range(200)]
    assert len({json.dumps(talk) for talk in drawn}) > 190
