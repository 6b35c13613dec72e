"""Free ports for one cluster, that no other cluster of this machine takes meanwhile."""

import random
import socket
from typing import Final

# Below the ports that Linux gives outgoing connections (32768 on): those come and go.
FIRST: Final = 12_000
BLOCK: Final = 256
BLOCKS: Final = 80
_random = random.Random()  # noqa: S311 - where to look first, no secret


class PortBlock:
    """A run of ports, claimed by an abstract Unix socket until `release` or the process's end."""

    def __init__(self, count: int) -> None:
        assert count <= BLOCK, "a cluster needs more ports than a block has"
        order = list(range(BLOCKS))
        _random.shuffle(order)
        for index in order:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0tramontane-dev-slurm-{index}")
            except OSError:
                claim.close()
                continue
            ports = [FIRST + index * BLOCK + offset for offset in range(BLOCK)]
            free = [port for port in ports if _is_free(port)]
            if len(free) >= count:
                self._claim, self._ports = claim, free
                return
            claim.close()
        raise OSError("no block of free ports is left for a Slurm cluster")

    def take(self) -> int:
        """Return a port that was not taken before."""
        return self._ports.pop(0)

    def release(self) -> None:
        """Let others have the block."""
        self._claim.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
