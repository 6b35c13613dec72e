"""The running system as its users see it: real processes, real ports, real kills."""
