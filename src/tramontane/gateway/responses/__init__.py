"""The Responses API where it touches the world: its exchange, what is stored, the background.

`exchange` is one request's life, `stored` speaks with the control plane about responses that are
kept, `background` stands in for the client of a response that runs without one, `input_tokens`
counts a prompt with the engine's tokenizer. The translation is in `calls.responses`.
"""
