"""What a request asks for: its form at each path, its bounds, its way to an engine and back.

A `Call` is one sound request body. It knows the body for the engine, and turns what the engine
answers, whole or as a stream, into what the caller's dialect expects. No sockets, no clock.
"""
