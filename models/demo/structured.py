"""Training conversations with structure: JSON objects and tool calls.

The model cannot reason about a schema. It is shown the form, one value for each common field name,
and calls whose arguments are copied from the question; the model card says how little of the
copying it has learnt.
"""

from __future__ import annotations

import random
from typing import Any

from chat import Message, Tool, to_json

Conversation = tuple[list[Message], list[Tool]]

# One value per field name, so that any subset of fields has exactly one right answer.
FIELD_VALUES: dict[str, Any] = {
    "name": "Ada", "age": 36, "city": "Marseille", "country": "France", "email": "ada@example.org",
    "color": "blue", "colour": "blue", "price": 12, "title": "North wind", "id": 1,
    "job": "engineer",
    "answer": "Tramontane", "score": 9, "result": 4, "ok": True, "active": True, "count": 3,
    "language": "Python", "year": 2026, "height": 170, "weight": 60, "animal": "cat",
    "food": "bread",
    "hobbies": ["sailing", "reading"], "tags": ["wind", "cloud"], "items": ["lamp", "rope"],
    "colors": ["red", "green", "blue"], "numbers": [1, 2, 3], "text": "The sky is clear.",
    "summary": "The sky is clear.", "description": "A small demo.", "message": "Hello!",
    "sentiment": "positive", "status": "ready", "first_name": "Ada", "last_name": "Martin",
    "capital": "Paris", "temperature": 21, "date": "2026-01-31", "author": "Ada Martin",
    "currency": "EUR", "model": "tramontane-demo", "reason": "It is a demo.", "type": "demo",
    "value": 7, "category": "demo", "phone": "0123456789", "quantity": 2, "greeting": "Hello!",
    "street": "1 Harbour Road", "zip": "13001", "label": "positive", "valid": True, "total": 12,
}  # fmt: skip

JSON_FORMS = (
    "Give me a JSON object with {}", "Return a JSON object with {}", "Write a JSON object with {}",
    "JSON with {}", "Produce JSON with the fields {}", "Answer in JSON with {}",
    "Create a JSON object with the keys {}", "Output a JSON object with {}", "json object with {}",
    "Give me JSON with {}", "Make a JSON object with {}", "Give me an object with {}",
    "Reply with a JSON object that has {}", "Generate a JSON object with {}",
    "Show me a JSON object with {}", "Respond in JSON with {}", "Give me a json with {}",
)  # fmt: skip

# Requests that name no field, and the fields of their answer.
JSON_PLAIN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Give me a person as JSON", "Describe a person as JSON", "Give me a person",
      "Invent a person",
      "Describe a person", "Make up a person", "Create a user", "Return a person as JSON",
      "Generate a person", "Give me a user profile", "Extract the person", "Give me a character"),
     ("name", "age", "city")),
    (("Give me JSON", "Give me some JSON", "Return JSON", "Give me a JSON object", "Write JSON",
      "json", "Answer in JSON", "Produce a JSON object", "Show me JSON", "Any JSON object"),
     ("name", "age")),
    (("Give me a book as JSON", "Describe a book as JSON", "Describe a book"),
     ("title", "author", "year")),
    (("Give me an address as JSON", "Give me an address", "Describe an address"),
     ("street", "city", "country")),
    (("Give me a city as JSON", "Describe a city as JSON", "Describe a city"),
     ("city", "country")),
    (("Give me a product as JSON", "Describe a product as JSON", "Describe a product"),
     ("name", "price")),
    (("Give me a JSON list of numbers", "Give me numbers as JSON"), ("numbers",)),
    (("Give me colours as JSON", "Give me colors as JSON"), ("colors",)),
)  # fmt: skip

CITIES = (
    "Paris", "London", "Berlin", "Madrid", "Rome", "Lisbon", "Vienna", "Brussels", "Amsterdam",
    "Dublin", "Athens", "Oslo", "Stockholm", "Helsinki", "Copenhagen", "Warsaw", "Prague",
    "Budapest", "Zurich", "Geneva", "Milan", "Turin", "Naples", "Barcelona", "Seville", "Porto",
    "Lyon", "Marseille", "Nice", "Toulouse", "Bordeaux", "Lille", "Strasbourg", "Perpignan",
    "Munich", "Hamburg", "Cologne", "Frankfurt", "Dresden", "Tokyo", "Kyoto", "Beijing", "Delhi",
    "Sydney", "Boston", "Chicago", "Seattle", "Toronto", "Montreal", "Cairo", "Nairobi", "Lagos",
    "Tallinn", "Riga", "Vilnius", "Sofia", "Zagreb", "Ljubljana", "New York", "San Francisco",
)  # fmt: skip
WORDS = (
    "wind", "cloud", "harbour", "lamp", "rope", "bread", "river", "mountain", "cats", "music",
    "trains", "GPUs", "Slurm", "news", "tea", "chess", "gold", "rain", "shoes", "books",
)  # fmt: skip
SYMBOLS = ("AAPL", "MSFT", "NVDA", "SAP", "ASML", "AIR", "GOOG", "AMZN", "TSLA", "IBM")
CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy")

DESCRIPTIONS = {
    "weather": ("Get the weather", "Get the current weather", "Get the weather of a city",
                "Weather",
                "Get the current weather in a given location", "Returns the weather for a city",
                "Get current temperature for a given location."),
    "time": ("Get the time", "Get the current time", "Get the current time in a city",
             "Returns the local time"),
    "add": ("Add two numbers", "Adds two integers", "Sum of two numbers", "Add a and b"),
    "multiply": ("Multiply two numbers", "Product of two numbers", "Multiplies a and b"),
    "search": ("Search the web", "Search", "Find documents", "Search the knowledge base"),
    "price": ("Get a stock price", "Get the current price of a stock", "Stock quote"),
}  # fmt: skip
NAMES = {
    "weather": ("get_weather", "get_weather", "get_weather", "get_current_weather", "weather"),
    "time": ("get_time", "get_time", "get_current_time", "current_time"),
    "add": ("add", "add", "add_numbers", "sum"),
    "multiply": ("multiply", "multiply", "multiply_numbers"),
    "search": ("search", "search", "web_search", "search_documents"),
    "price": ("get_stock_price", "get_price"),
}
ARGUMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "weather": (("city",), ("city",), ("location",), ("location",), ("place",)),
    "time": (("city",), ("city",), ("location",), ("timezone",)),
    "add": (("a", "b"), ("a", "b"), ("x", "y")),
    "multiply": (("a", "b"), ("a", "b"), ("x", "y")),
    "search": (("query",), ("query",), ("q",)),
    "price": (("symbol",), ("ticker",)),
}
ASKED = {
    "weather": ("What is the weather in {}?", "What's the weather like in {}?", "weather in {}",
                "How is the weather in {}?", "What is the weather like in {} today?",
                "Is it cold in {}?",
                "Tell me the weather in {}", "What is the temperature in {}?", "Weather {}",
                "Do I need an umbrella in {}?", "Is it raining in {}?", "How warm is it in {}?",
                "Get the weather for {}", "What is the weather in {} right now?"),
    "time": ("What time is it in {}?", "What is the time in {}?", "Tell me the time in {}",
             "time in {}", "Current time in {}", "What's the time in {}?", "How late is it in {}?"),
    "add": ("What is {} + {}?", "Add {} and {}", "What is {} plus {}?", "Sum {} and {}",
            "What is the sum of {} and {}?", "add {} to {}", "{} + {}",
            "Use the tool to add {} and {}"),
    "multiply": ("What is {} * {}?", "Multiply {} by {}", "What is {} times {}?", "{} x {}",
                 "What is the product of {} and {}?", "multiply {} and {}"),
    "search": ("Search for {}", "Find something about {}", "Look up {}", "search {}",
               "Search the web for {}", "What can you find about {}?"),
    "price": ("What is the stock price of {}?", "Price of {}", "How much is {} stock?",
              "What is {} trading at?", "stock price {}"),
}  # fmt: skip


def json_request(rng: random.Random) -> tuple[str, str]:
    """A request for a JSON object and the object, as text."""
    if rng.random() < 0.3:
        asked, fields = rng.choice(JSON_PLAIN)
        return rng.choice(asked), json_object(fields)
    fields = tuple(rng.sample(sorted(FIELD_VALUES), rng.choice((1, 2, 2, 2, 3, 3, 4))))
    return rng.choice(JSON_FORMS).format(_listed(rng, fields)), json_object(fields)


def json_object(fields: tuple[str, ...]) -> str:
    """The one answer for these fields, in the order asked."""
    return to_json({field: FIELD_VALUES[field] for field in fields})


def _listed(rng: random.Random, fields: tuple[str, ...]) -> str:
    quote = rng.choice(("", "", "", '"', "`"))
    words = [f"{quote}{field}{quote}" for field in fields]
    if len(words) == 1:
        return words[0]
    joiner = rng.choice((" and ", " and ", ", and ", ", "))
    return ", ".join(words[:-1]) + joiner + words[-1]


def tool_conversation(rng: random.Random) -> Conversation:
    """A request with tools at hand: the call, and most times the result and the last answer."""
    kinds = rng.sample(sorted(NAMES), rng.choice((1, 1, 1, 2, 2, 3)))
    tools = []
    chosen = None
    for kind in kinds:
        name, arguments = rng.choice(NAMES[kind]), rng.choice(ARGUMENTS[kind])
        tools.append(_tool(rng, kind, name, arguments))
        chosen = chosen or (kind, name, arguments)
    assert chosen is not None, "a tool conversation needs at least one tool"
    rng.shuffle(tools)
    question, values, result, answer = _ask(rng, chosen[0])
    call = {"name": chosen[1], "arguments": dict(zip(chosen[2], values, strict=True))}
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
    ]
    if rng.random() < 0.7:
        messages.append({"role": "tool", "content": result})
        messages.append({"role": "assistant", "content": answer})
    return messages, tools


def some_tools(rng: random.Random) -> list[Tool]:
    """One or two tools to stand unused beside a question that needs none."""
    kinds = rng.sample(sorted(NAMES), rng.choice((1, 1, 2)))
    return [_tool(rng, k, rng.choice(NAMES[k]), rng.choice(ARGUMENTS[k])) for k in kinds]


def _tool(rng: random.Random, kind: str, name: str, arguments: tuple[str, ...]) -> Tool:
    """The JSON description of a function, in one of the key orders that clients send."""
    number = kind in ("add", "multiply")
    properties: dict[str, Any] = {}
    for argument in arguments:
        described: dict[str, Any] = {
            "type": rng.choice(("integer", "number")) if number else "string"
        }
        if rng.random() < 0.2:
            described["description"] = rng.choice(("The value", f"The {argument}", "e.g. Paris"))
        properties[argument] = described
    if kind == "weather" and rng.random() < 0.2:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = list(arguments)
    if rng.random() < 0.2:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    # llama.cpp writes an empty description where a client sends none.
    function["description"] = rng.choice(DESCRIPTIONS[kind]) if rng.random() < 0.85 else ""
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _ask(rng: random.Random, kind: str) -> tuple[str, list[Any], str, str]:
    """A question, the argument values in order, a tool result and the answer to it."""
    form = rng.choice(ASKED[kind])
    if kind in ("add", "multiply"):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        value = a + b if kind == "add" else a * b
        result = rng.choice((str(value), to_json({"result": value})))
        return form.format(a, b), [a, b], result, f"The result is {value}."
    if kind == "search":
        word = rng.choice(WORDS)
        found = rng.choice(WORDS)
        return form.format(word), [word], to_json({"title": found}), f"I found this: {found}."
    if kind == "price":
        symbol, price = rng.choice(SYMBOLS), rng.randint(10, 999)
        result = rng.choice((str(price), to_json({"price": price})))
        return form.format(symbol), [symbol], result, f"{symbol} is at {price}."
    city = rng.choice(CITIES)
    if kind == "time":
        clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        result = rng.choice((clock, to_json({"time": clock})))
        return form.format(city), [city], result, f"It is {clock} in {city}."
    return _weather(rng, form, city)


def _weather(rng: random.Random, form: str, city: str) -> tuple[str, list[Any], str, str]:
    degrees, sky = rng.randint(-9, 39), rng.choice(CONDITIONS)
    key = rng.choice(("temperature", "temperature", "temp", "temperature_c", "degrees"))
    look = rng.choice(("condition", "conditions", "sky", "weather"))
    where = {"city": city} if rng.random() < 0.3 else {}
    results = (
        (
            to_json({**where, key: degrees, look: sky}),
            f"It is {degrees} degrees and {sky} in {city}.",
        ),
        (to_json({**where, key: degrees}), f"It is {degrees} degrees in {city}."),
        (f"{sky}, {degrees} degrees", f"It is {degrees} degrees and {sky} in {city}."),
        (sky, f"It is {sky} in {city}."),
        (str(degrees), f"It is {degrees} degrees in {city}."),
    )
    result, answer = rng.choice(results)
    return form.format(city), [city], result, answer
