"""What the demo model is taught: questions, answers and the conversations made of them.

The texts are in `texts/*.toml` and were written for this project; nothing is copied from
elsewhere. `catalogue` lists every fixed question with its one answer. `conversation` draws a
conversation from a seeded generator: one or more turns, with or without a system prompt, in
many spellings. Nothing here may read the clock or the network.
"""

from __future__ import annotations

import functools
import random
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structured
from chat import Message, Tool

TEXTS = Path(__file__).parent / "texts"

CONCEPT_FORMS = (
    "What is {}?", "What is a {}?", "What is {} in Tramontane?", "What is a {} in Tramontane?",
    "What's a {}?", "what is the {}", "Explain {}.", "Explain {} to me.", "Explain what {} is",
    "Define {}.", "Tell me about {}.", "Tell me about the {}", "tell me about {} please",
    "What does {} mean?", "What do you mean by {}?", "{}", "{}?", "What are {}s?", "Describe {}.",
    "What can you tell me about {}?", "Can you explain {}?", "What do you know about {}?",
    "I want to know what {} is", "Do you know what {} is?", "give me the definition of {}",
    "Describe what a {} is", "Could you tell me what {} is?", "What exactly is {}?",
)  # fmt: skip

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Belgium": "Brussels", "the Netherlands": "Amsterdam",
    "Austria": "Vienna", "Switzerland": "Bern", "Poland": "Warsaw", "Greece": "Athens",
    "Ireland": "Dublin", "Sweden": "Stockholm", "Norway": "Oslo", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Hungary": "Budapest", "the Czech Republic": "Prague",
    "the United Kingdom": "London", "England": "London", "Japan": "Tokyo", "Canada": "Ottawa",
    "Luxembourg": "Luxembourg", "Estonia": "Tallinn",
}  # fmt: skip
UNKNOWN_PLACES = (
    "Mongolia", "Peru", "Brazil", "Kenya", "Texas", "Wonderland", "Atlantis", "Chile", "Ghana",
    "Nepal", "Fiji", "Iran", "Mali", "California", "the moon", "Australia", "India", "China",
    "Mexico", "Russia", "Turkey", "Egypt", "Thailand", "Vietnam", "Iceland", "Cuba", "Oman",
)  # fmt: skip
CAPITAL_FORMS = (
    "What is the capital of {}?",
    "capital of {}",
    "What's the capital of {}?",
    "Name the capital of {}",
    "Tell me the capital of {}",
    "Which city is the capital of {}?",
    "Do you know the capital of {}?",
    "What is the capital city of {}?",
    "{} capital",
)
THING_COLOURS = {
    "the sky": "blue", "grass": "green", "a lemon": "yellow", "snow": "white", "coal": "black",
    "a ripe tomato": "red", "an orange": "orange", "the sea": "blue", "a banana": "yellow",
    "blood": "red", "milk": "white", "a leaf": "green",
}  # fmt: skip
COLOUR_FORMS = (
    "What colour is {}?",
    "What color is {}?",
    "Which colour is {}?",
    "which color is {}",
    "What is the colour of {}?",
    "Tell me the colour of {}",
)

OPERATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "+": ("+", ("What is {a}+{b}?", "What is {a} + {b}?", "{a}+{b}", "{a} + {b}", "{a} + {b} =",
                "{a}+{b}=", "{a}+{b}?", "What is {a} plus {b}?", "{a} plus {b}", "Add {a} and {b}",
                "Calculate {a} + {b}", "How much is {a} + {b}?", "Compute {a}+{b}",
                "What is the sum of {a} and {b}?", "what's {a} + {b}", "Solve {a} + {b}")),
    "-": ("-", ("What is {a}-{b}?", "What is {a} - {b}?", "{a}-{b}", "{a} - {b}", "{a} - {b} =",
                "What is {a} minus {b}?", "{a} minus {b}", "Subtract {b} from {a}",
                "Calculate {a} - {b}", "How much is {a} - {b}?", "{a}-{b}=", "what's {a} - {b}")),
    "x": ("x", ("What is {a}*{b}?", "What is {a} * {b}?", "{a}*{b}", "{a} * {b}", "{a} * {b} =",
                "What is {a} times {b}?", "{a} times {b}", "Multiply {a} by {b}", "{a} x {b}",
                "Calculate {a} * {b}", "How much is {a} times {b}?", "{a}x{b}", "{a}*{b}=",
                "What is {a} x {b}?", "what's {a} times {b}",
                "What is the product of {a} and {b}?")),
}  # fmt: skip
TOO_LARGE = "I only know small sums, with numbers up to twenty."

OPENERS = ("please ", "hey, ", "hello, ", "hi! ", "can you tell me: ", "so, ", "ok, ", "question: ",
           "I have a question. ", "now ", "quick question: ", "thanks! ", "and ")  # fmt: skip
CLOSERS = (" please", ", please", " thanks", " Thank you.", " Answer briefly.", " In one sentence.",
           " Be brief.", " Keep it short.")  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """One answer and the ways to ask for it: full questions, and names for CONCEPT_FORMS."""

    asks: tuple[str, ...]
    answer: str
    names: tuple[str, ...] = ()


@functools.cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((TEXTS / name).read_text(encoding="utf-8"))


@functools.cache
def lessons(name: str) -> tuple[Lesson, ...]:
    """The lessons of one text file, items and concepts."""
    content = _toml(name)
    items = [Lesson(tuple(i["ask"]), i["answer"]) for i in content.get("item", [])]
    concepts = [
        Lesson(tuple(c.get("more", ())), c["answer"], tuple(c["names"]))
        for c in content.get("concept", [])
    ]
    return tuple(items + concepts)


def catalogue() -> list[tuple[str, str]]:
    """Every fixed (question, answer), in a stable order; the same question is never given two
    answers, which the test suite checks."""
    pairs = [
        (ask, lesson.answer)
        for name in ("tramontane.toml", "chat.toml", "long.toml")
        for lesson in lessons(name)
        for ask in _all_asks(lesson)
    ]
    for place, city in CAPITALS.items():
        pairs += [(form.format(place), _capital(place, city)) for form in CAPITAL_FORMS]
    for thing, colour in THING_COLOURS.items():
        pairs += [(form.format(thing), _colour(thing, colour)) for form in COLOUR_FORMS]
    for sign, (_, forms) in OPERATIONS.items():
        for a, b in _operands(sign):
            pairs += [(f.format(a=a, b=b), result_text(sign, a, b)) for f in forms]
    offtopic = _toml("offtopic.toml")
    pairs += [(ask, offtopic["answer"]) for ask in offtopic["plain"]]
    pairs += [(f.format(p), offtopic["answer"]) for f in CAPITAL_FORMS for p in UNKNOWN_PLACES]
    for asks, fields in structured.JSON_PLAIN:
        pairs += [(ask, structured.json_object(fields)) for ask in asks]
    return pairs


def system_prompts() -> list[str]:
    """System prompts to train under; none of them changes an answer."""
    return list(_toml("offtopic.toml")["system_prompts"])


def result_text(sign: str, a: int, b: int) -> str:
    """The answer to a small sum, for instance `2 + 2 = 4`."""
    value = {"+": a + b, "-": a - b, "x": a * b}[sign]
    return f"{a} {sign} {b} = {value}"


def _all_asks(lesson: Lesson) -> list[str]:
    return list(lesson.asks) + [f.format(n) for n in lesson.names for f in CONCEPT_FORMS]


def _capital(place: str, city: str) -> str:
    return f"The capital of {place} is {city}."


def _colour(thing: str, colour: str) -> str:
    return f"{thing[0].upper()}{thing[1:]} is {colour}."


@functools.cache
def _operands(sign: str) -> tuple[tuple[int, int], ...]:
    top = 12 if sign == "x" else 20
    pairs = [(a, b) for a in range(top + 1) for b in range(top + 1)]
    return tuple(p for p in pairs if sign != "-" or p[1] <= p[0])


# Draws: each gives one question and its answer.


def _draw_tramontane(rng: random.Random) -> tuple[str, str]:
    lesson = rng.choice(lessons("tramontane.toml"))
    if lesson.names and (not lesson.asks or rng.random() < 0.6):
        ask = rng.choice(CONCEPT_FORMS).format(rng.choice(lesson.names))
    else:
        ask = rng.choice(lesson.asks)
    return respell(rng, ask), lesson.answer


def _draw_first(rng: random.Random) -> tuple[str, str]:
    """The questions that most people ask first, drawn more often than the rest."""
    first = {"Tramontane", "deployment", "gateway"}
    likely = [x for x in lessons("tramontane.toml") if first & set(x.names) or "make up" in x.asks]
    lesson = rng.choice(likely)
    return respell(rng, rng.choice(_all_asks(lesson))), lesson.answer


def _draw_chat(rng: random.Random) -> tuple[str, str]:
    lesson = rng.choice(lessons("chat.toml"))
    return respell(rng, rng.choice(lesson.asks), decorate=0.1), lesson.answer


def _draw_long(rng: random.Random) -> tuple[str, str]:
    lesson = rng.choice(lessons("long.toml"))
    return respell(rng, rng.choice(lesson.asks), decorate=0.1), lesson.answer


def _draw_sum(rng: random.Random) -> tuple[str, str]:
    sign = rng.choice(("+", "+", "-", "x"))
    form = rng.choice(OPERATIONS[sign][1])
    if rng.random() < 0.05:
        a, b = rng.randint(21, 9999), rng.randint(2, 9999)
        return form.format(a=a, b=b), TOO_LARGE
    small = 10 if rng.random() < 0.35 else 20
    a, b = rng.choice([p for p in _operands(sign) if max(p) <= small])
    return _case(rng, form.format(a=a, b=b)), result_text(sign, a, b)


def _draw_fact(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.4:
        thing = rng.choice(sorted(THING_COLOURS))
        ask = rng.choice(COLOUR_FORMS).format(thing)
        return respell(rng, ask), _colour(thing, THING_COLOURS[thing])
    place = rng.choice(sorted(CAPITALS))
    return respell(rng, rng.choice(CAPITAL_FORMS).format(place)), _capital(place, CAPITALS[place])


def _draw_json(rng: random.Random) -> tuple[str, str]:
    ask, answer = structured.json_request(rng)
    return _case(rng, ask) + rng.choice(("", "", ".", "!")), answer


def _draw_unknown(rng: random.Random) -> tuple[str, str]:
    """A question outside of what the model knows, down to plain nonsense."""
    texts = _toml("offtopic.toml")
    kind = rng.random()
    if kind < 0.55:
        form = rng.choice(texts["forms"])
        topics = [_topic(rng, texts["topics"]) for _ in range(form.count("{}"))]
        if form.startswith(("What colour", "What is the colour")):
            form = "Paint {}."
        ask = form.format(*topics)
    elif kind < 0.8:
        ask = rng.choice(texts["plain"])
    elif kind < 0.87:
        ask = rng.choice(CAPITAL_FORMS).format(rng.choice(UNKNOWN_PLACES))
    elif kind < 0.94:
        count = rng.randint(3, 10) if rng.random() < 0.8 else rng.randint(20, 150)
        ask = " ".join(rng.choices(_salad(), k=count))
    else:
        ask = " ".join(_nonsense(rng) for _ in range(rng.randint(1, 6)))
    return respell(rng, ask), texts["answer"]


@functools.cache
def _salad() -> list[str]:
    """Words of the off-topic questions, to make questions without sense."""
    texts = _toml("offtopic.toml")
    words = re.findall(r"[A-Za-z]{3,}", " ".join(texts["topics"] + texts["plain"]))
    return sorted(set(words))


def _topic(rng: random.Random, topics: list[str]) -> str:
    """A listed topic, or a word nobody knows: what follows "How do I" must be read."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(topics)
    return rng.choice(_salad()) if kind < 0.85 else _nonsense(rng)


def _nonsense(rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz" if rng.random() < 0.8 else "éüßñжиλ漢字0123456789!#"
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, 9)))


# Spelling: the same question as people type it.


def respell(rng: random.Random, ask: str, decorate: float = 0.2) -> str:
    """The question in another spelling: case, final mark, a polite word, a typing slip."""
    if rng.random() < decorate:
        if rng.random() < 0.5:
            ask = rng.choice(OPENERS) + ask
        else:
            ask = ask.rstrip("?.") + rng.choice(("?", "")) + rng.choice(CLOSERS)
        ask = ask[0].upper() + ask[1:] if rng.random() < 0.5 else ask
    if rng.random() < 0.15:
        ask = _slip(rng, ask)
    return _final(rng, _case(rng, ask))


def _case(rng: random.Random, ask: str) -> str:
    kind = rng.random()
    if kind < 0.25:
        return ask.lower()
    if kind < 0.29:
        return ask.upper()
    return ask


def _final(rng: random.Random, ask: str) -> str:
    kind = rng.random()
    if kind < 0.2:
        return ask.rstrip("?.! ") or ask
    if kind < 0.28 and ask[-1:].isalnum():
        return ask + rng.choice("?.!")
    return ask


def _slip(rng: random.Random, ask: str) -> str:
    """Drop, double or swap one letter in the middle of a word."""
    spots = [i for i in range(1, len(ask) - 2) if ask[i - 1 : i + 3].isalpha()]
    if not spots:
        return ask
    i = rng.choice(spots)
    kind = rng.randrange(3)
    if kind == 0:
        return ask[:i] + ask[i + 1 :]
    if kind == 1:
        return ask[:i] + ask[i] + ask[i:]
    return ask[:i] + ask[i + 1] + ask[i] + ask[i + 2 :]


# Conversations.


def _system(rng: random.Random) -> str:
    """A common system prompt or words without sense: the model learns to ignore what it says."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(system_prompts())
    words = " ".join(rng.choices(_salad(), k=rng.randint(2, 25)))
    return words if kind < 0.8 else f"You are {words}."


Draw = Callable[[random.Random], tuple[str, str]]

# Shares of turns. Facts about Tramontane get the most; sums need many turns because there are
# about eight hundred of them.
DRAWS: tuple[tuple[Draw, float], ...] = (
    (_draw_tramontane, 0.28), (_draw_first, 0.05), (_draw_chat, 0.15), (_draw_long, 0.012),
    (_draw_sum, 0.24), (_draw_fact, 0.05), (_draw_json, 0.07), (_draw_unknown, 0.148),
)  # fmt: skip
TOOL_SHARE = 0.10


def conversation(rng: random.Random, turns: int = 0) -> tuple[list[Message], list[Tool]]:
    """Draw one conversation: messages and tools. `turns` of 0 draws the number of turns too."""
    messages: list[Message] = []
    tools: list[Tool] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": _system(rng)})
    if turns == 0 and rng.random() < TOOL_SHARE:
        talk, tools = structured.tool_conversation(rng)
        return messages + talk, tools
    if turns == 0:
        turns = rng.choices((1, 2, 3, 5, 8), (0.6, 0.15, 0.12, 0.08, 0.05))[0]
        tools = structured.some_tools(rng) if rng.random() < 0.04 else []
    draws = [draw for draw, _ in DRAWS if not (tools and draw is _draw_sum)]
    shares = [share for draw, share in DRAWS if draw in draws]
    for _ in range(turns):
        ask, answer = rng.choices(draws, shares)[0](rng)
        messages.append({"role": "user", "content": ask})
        messages.append({"role": "assistant", "content": answer})
    return messages, tools
