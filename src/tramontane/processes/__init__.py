"""Composition roots: one module per process wires its rooms together and runs it."""
