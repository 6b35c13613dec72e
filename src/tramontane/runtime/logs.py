"""Logging: times in UTC, to a file or to stderr; never a prompt, an answer, a key or a secret."""

import logging
import sys
import time
from pathlib import Path
from typing import Final

_FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"


def configure(level: str, path: Path | None = None) -> None:
    """Send records of ``level`` and above to the file ``path``, or to stderr when it is None."""
    handler: logging.Handler
    handler = logging.FileHandler(path, delay=True) if path else logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
