"""The Responses API in terms of chat completions, there and back; pure, without sockets or clock.

`form` is what a client may ask, `items` turns its input into chat messages, `asks` makes the
engine's body, `reply` the response object, `events` the stream of named events, and `call` holds
them together. Every engine gets the same chat form, so what is said here holds for all of them.
"""
