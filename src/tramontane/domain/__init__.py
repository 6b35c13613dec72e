"""The pure core: facts and decisions as plain values, standard library only.

Nothing here reads a clock, makes a random number or touches the machine: time and ids come in
as arguments, so that every decision can be replayed from its inputs.
"""
