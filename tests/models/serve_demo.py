"""Serves a GGUF file with the embedded llama.cpp until standard input ends.

Run by the tests as a process of its own, as Tramontane does: prints the address in one line.
"""

from __future__ import annotations

import os
import sys

import xllamacpp


def main() -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.n_ctx, settings.n_parallel, settings.port, settings.ui = 2048, 1, 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    print(f"serving at {server.listening_address}", flush=True)
    sys.stdin.read()
    # The server's threads have no clean end in this binding; leave without waiting for them.
    os._exit(0)


if __name__ == "__main__":
    main()
