"""Trains the demo model on a CPU and writes a safetensors folder.

    python models/demo/train.py --out models/demo/safetensors

The recipe: a byte-level BPE tokenizer with single digits, whole conversations packed into rows
that cannot see each other, loss on what the assistant says, Muon for the matrices and AdamW for
the rest, a rate that falls to zero. It needs the packages of requirements-train.txt and nothing
from the network.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import chat
import data
import torch
from model import DemoModel, Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

ROW_TOKENS = 512
ROWS = 4
# Every so many steps one row is a whole context long, so that late positions are learnt too.
LONG_EVERY = 12
SEED = 20261122
IGNORED = -100

# An answer of this many tokens has weight one for each of them; see `encode`.
USUAL_ANSWER_TOKENS = 20

Encoded = tuple[list[int], list[int], list[float]]


def train_tokenizer(rng: random.Random, vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer of exactly `vocab` entries, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(chat.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for _ in range(20_000) for text in _plain_texts(rng))
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries, not {vocab}")
    return tokenizer


def _plain_texts(rng: random.Random) -> list[str]:
    messages, tools = data.conversation(rng)
    texts = [text for text, _ in chat.segments(messages, tools)]
    for token in chat.SPECIAL_TOKENS:
        texts = [text.replace(token, "\n") for text in texts]
    return texts


def encode(tokenizer: Tokenizer, parts: list[chat.Segment]) -> Encoded:
    """Token ids, labels (the id itself where the model has to learn it) and weights.

    A token of a short answer weighs more: a sum has one digit that matters, a story has hundreds
    of words, and with equal weights the model learns the story and not the sum.
    """
    ids: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for text, learn in parts:
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        labels += piece if learn else [IGNORED] * len(piece)
        weights += [(USUAL_ANSWER_TOKENS / len(piece)) ** 0.5] * len(piece)
    return ids, labels, weights


@dataclass(frozen=True)
class Batch:
    """One step's rows, each [rows, tokens]; the mask is None where a row is one conversation."""

    ids: Tensor
    labels: Tensor
    weights: Tensor
    mask: Tensor | None


class Rows:
    """Fills rows with whole conversations; what does not fit waits for the next row."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.tokenizer = tokenizer
        self.rng = rng
        self.waiting: list[Encoded] = []

    def batch(self) -> Batch:
        """Rows of whole conversations, and the mask that keeps them apart."""
        made = [self._row() for _ in range(ROWS)]
        ids, labels, weights, owner = (torch.tensor([row[i] for row in made]) for i in range(4))
        causal = torch.ones(ROW_TOKENS, ROW_TOKENS, dtype=torch.bool).tril()
        mask = (owner[:, None, :, None] == owner[:, None, None, :]) & causal
        return Batch(ids, labels, weights, mask)

    def long_row(self, tokens: int) -> Batch:
        """One conversation of very many turns, cut at the end of the context."""
        messages, tools = data.conversation(self.rng, turns=tokens // 30)
        encoded = encode(self.tokenizer, chat.segments(messages, tools))
        return Batch(*(torch.tensor([part[:tokens]]) for part in encoded), None)

    def _row(self) -> tuple[list[int], list[int], list[float], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        weights: list[float] = []
        owner: list[int] = []
        for number in range(200):
            item = self.waiting.pop() if self.waiting else self._next()
            if len(ids) + len(item[0]) > ROW_TOKENS:
                self.waiting.append(item)
                break
            ids += item[0]
            labels += item[1]
            weights += item[2]
            owner += [number] * len(item[0])
        free = ROW_TOKENS - len(ids)
        filled = ids + [0] * free, labels + [IGNORED] * free
        return *filled, weights + [0.0] * free, owner + [-1] * free

    def _next(self) -> Encoded:
        while True:
            messages, tools = data.conversation(self.rng)
            item = encode(self.tokenizer, chat.segments(messages, tools))
            if len(item[0]) <= ROW_TOKENS:
                return item


def loss_of(model: DemoModel, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy; only learnt tokens are projected to the vocabulary."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.hidden(batch.ids, batch.mask)
        wanted = batch.labels[:, 1:] != IGNORED
        logits = model.logits(hidden[:, :-1][wanted])
    losses = functional.cross_entropy(logits.float(), batch.labels[:, 1:][wanted], reduction="none")
    weights = batch.weights[:, 1:][wanted]
    return (losses * weights).sum() / weights.sum()


def train(model: DemoModel, rows: Rows, steps: int, stop: int, checkpoint: Path | None) -> None:
    """Runs the first `stop` steps of a recipe of `steps`; prints the loss every 25."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in named if p.dim() != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0, adjust_lr_fn="original")
    adam = torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    started = time.monotonic()
    for step in range(stop):
        share = rate_share(step, steps)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = 0.02 * share, 1.5e-3 * share
        is_long = step % LONG_EVERY == LONG_EVERY - 1
        made = rows.long_row(model.shape.context_tokens) if is_long else rows.batch()
        loss = loss_of(model, made)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0 or step == stop - 1:
            spent = time.monotonic() - started
            print(f"step {step} loss {loss.item():.4f} {spent:.0f} s", flush=True)
        if checkpoint and step % 500 == 499:
            torch.save(model.state_dict(), checkpoint)


def rate_share(step: int, steps: int) -> float:
    """Share of the full rate: 40 steps of warm-up, flat to half-way, then down to zero."""
    warm = min(1.0, (step + 1) / 40)
    left = (steps - step) / (steps * 0.5)
    return min(warm, left, 1.0)


def write(folder: Path, model: DemoModel, tokenizer: Tokenizer) -> None:
    """Writes the files that transformers, vLLM and convert.py read."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().to(torch.float16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # save_file makes it private
    tokenizer.save(str(folder / "tokenizer.json"))
    context = model.shape.context_tokens
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "add_bos_token": False,
        "bos_token": chat.END_OF_TEXT,
        "eos_token": chat.TURN_END,
        "pad_token": chat.END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat.CHAT_TEMPLATE,
    }
    generation = {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False}
    for name, value in (
        ("config.json", model.shape.to_config()),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "safetensors")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--stop", type=int, help="end after this many of the steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="torch file, rewritten every 500 steps")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    shape = Shape()
    tokenizer = train_tokenizer(random.Random(SEED), shape.vocab)
    model = DemoModel(shape)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    rows = Rows(tokenizer, random.Random(SEED + 1))
    stop = arguments.stop or arguments.steps
    train(model, rows, arguments.steps, stop, arguments.checkpoint)
    write(arguments.out, model, tokenizer)


if __name__ == "__main__":
    main()
