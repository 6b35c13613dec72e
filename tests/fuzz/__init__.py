"""Fuzzing of what reads bytes from outside: clients' requests, engines' replies."""
