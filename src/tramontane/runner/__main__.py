"""Starts the runner: as a script beside its package, or as the first file of a zip."""

import os
import sys

if not __package__:  # run as a script, by its path: its package is not on the path then
    sys.path.insert(0, os.path.abspath(f"{__file__}/../../.."))

from tramontane.runner.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
