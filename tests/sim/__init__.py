"""The simulation: the real reconcilers and the real store in a world that goes wrong.

`world` runs one seed; `faults` decides what goes wrong; `users` and `gateways` act; `checks` looks
after every tick; `mutations` plants the bugs that it must find.
``make sim SEED=N`` replays one seed.
"""
