"""Measures the demo model as llama.cpp serves it; the model card's figures come from here.

    python models/demo/measure.py models/demo/tramontane-demo-q8_0.gguf

Prints the share of exact answers by kind of question (greedy and at temperature 0.8), the share
late in a long conversation, and the parity of next-token probabilities with float32 torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import urllib.request
from pathlib import Path
from typing import Any

import chat
import data
import structured
import torch
import xllamacpp
from convert import read_safetensors
from model import DemoModel, Shape
from tokenizers import Tokenizer

SEED = 77
QUESTIONS = 100
POSITIONS = 70


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One JSON request; raises URLError if the server does not answer."""
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def answer(address: str, messages: list[chat.Message], **extra: object) -> str:
    """The assistant's text, or its first tool call in the Hermes form."""
    body = {"messages": messages, "max_tokens": 600, "seed": SEED, **extra}
    message = post(address, "/v1/chat/completions", body)["choices"][0]["message"]
    calls = message.get("tool_calls")
    if not calls:
        return message["content"] or ""
    function = calls[0]["function"]
    arguments = json.loads(function["arguments"])
    return chat.call_text({"function": {"name": function["name"], "arguments": arguments}})


def exact_by_kind(address: str, temperature: float) -> dict[str, float]:
    """Share of answers equal to the one that was taught, on questions freshly spelt."""
    rng = random.Random(SEED)
    shares = {}
    for draw, _ in data.DRAWS:
        right = 0
        for _ in range(QUESTIONS):
            ask, wanted = draw(rng)
            messages = [{"role": "user", "content": ask}]
            right += answer(address, messages, temperature=temperature) == wanted
        shares[draw.__name__.removeprefix("_draw_")] = right / QUESTIONS
    return shares


def exact_tools(address: str, temperature: float) -> dict[str, float]:
    """Share of right calls and of right answers after a result."""
    rng = random.Random(SEED)
    right = {"call": 0, "after": 0}
    asked = {"call": 0, "after": 0}
    while asked["after"] < QUESTIONS:
        messages, tools = structured.tool_conversation(rng)
        call = messages[1]["tool_calls"][0]
        got = answer(address, messages[:1], tools=tools, temperature=temperature)
        asked["call"] += 1
        right["call"] += got == chat.call_text(call)
        if len(messages) < 4:
            continue
        arguments = json.dumps(call["function"]["arguments"])
        function = {"name": call["function"]["name"], "arguments": arguments}
        sent = {"role": "assistant", "content": None}
        sent["tool_calls"] = [{"id": "1", "type": "function", "function": function}]
        talk = [messages[0], sent, {**messages[2], "tool_call_id": "1"}]
        asked["after"] += 1
        right["after"] += (
            answer(address, talk, tools=tools, temperature=temperature) == (messages[3]["content"])
        )
    return {kind: right[kind] / asked[kind] for kind in right}


def exact_late(address: str, tokenizer: Tokenizer) -> tuple[float, int]:
    """Share of exact answers after some 1,700 tokens of talk, and the mean prompt length."""
    rng = random.Random(SEED)
    right = tokens = 0
    for _ in range(50):
        messages, _ = data.conversation(rng, turns=70)
        while len(tokenizer.encode(chat.prompt(messages)).ids) > 1750:
            messages = messages[:-2]
        ask, wanted = data.DRAWS[0][0](rng)
        messages.append({"role": "user", "content": ask})
        tokens += len(tokenizer.encode(chat.prompt(messages)).ids)
        right += answer(address, messages, temperature=0) == wanted
    return right / 50, tokens // 50


def parity(address: str, source: Path, tokenizer: Tokenizer) -> tuple[int, float]:
    """At random places of conversations: how often the likeliest next token is the same as in
    float32 torch, and the largest difference of its log-probability."""
    model = DemoModel(Shape())
    weights = read_safetensors(source / "model.safetensors")
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    rng = random.Random(SEED)
    same, worst = 0, 0.0
    for _ in range(POSITIONS):
        messages, tools = data.conversation(rng)
        text = "".join(part for part, _ in chat.segments(messages, tools))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        ids = ids[: rng.randint(8, len(ids) - 1)]
        with torch.no_grad():
            scores = model.logits(model.hidden(torch.tensor([ids]))[0, -1]).log_softmax(-1)
        body = {
            "prompt": ids,
            "n_predict": 1,
            "temperature": 0,
            "n_probs": 1,
            "cache_prompt": False,
        }
        first = post(address, "/completion", body)["completion_probabilities"][0]["top_logprobs"][0]
        same += first["id"] == int(scores.argmax())
        worst = max(worst, abs(first["logprob"] - float(scores[first["id"]])))
    return same, worst


def serve(gguf: Path) -> xllamacpp.Server:
    """The llama.cpp server on a free port of this machine, with one thread."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_ctx, settings.n_parallel, settings.port, settings.ui = 2048, 1, 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--source", type=Path, default=Path(__file__).parent / "safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(arguments.source / "tokenizer.json"))
    server = serve(arguments.gguf)
    address = server.listening_address
    same, worst = parity(address, arguments.source, tokenizer)
    print(f"parity: argmax {same}/{POSITIONS}, largest log-probability difference {worst:.5f}")
    for temperature in (0.0, 0.8):
        print(f"exact at temperature {temperature}: {exact_by_kind(address, temperature)}")
        print(f"tools at temperature {temperature}: {exact_tools(address, temperature)}")
    share, tokens = exact_late(address, tokenizer)
    print(f"exact after {tokens} tokens of talk: {share}", flush=True)
    # The server's threads have no clean end in this binding; leave without waiting for them.
    os._exit(0)


if __name__ == "__main__":
    main()
