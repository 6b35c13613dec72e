"""Logging: times in UTC, to a file or to stderr; never a prompt, an answer, a key or a secret.

Records are lines of text, or one JSON object per line by the setting ``log_format``: ``time``
(ISO 8601, UTC), ``level``, ``logger``, ``process``, ``pid``, ``message`` and, for a bug,
``exception``. Callers write no secrets; what looks like one all the same is blotted out here.
"""

import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Final

FORMATS: Final = ("text", "json")
_TEXT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
_SECONDS: Final = "%Y-%m-%dT%H:%M:%S"
# Our keys, bearer tokens, and passwords inside URLs. A Slurm account begins as a key does; one that
# is shorter than a third of a key is told.
_SECRETS: Final = re.compile(
    r"tmt_[0-9a-zA-Z]{20,}|(?<=[Bb]earer )[^\s'\"]+|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"
)
_BLOT: Final = "***"


def configure(
    level: str, path: Path | None = None, *, form: str = "text", process: str = ""
) -> None:
    """Send records of ``level`` and above to the file ``path``, or to stderr when it is None.

    ``form`` is one of `FORMATS`; ``process`` is what JSON records call this process.
    """
    handler: logging.Handler
    handler = logging.FileHandler(path, delay=True) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(_TEXT, datefmt=_SECONDS))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def without_secrets(text: str) -> str:
    """Return ``text`` with everything that looks like a key, a token or a password blotted out."""
    return _SECRETS.sub(_BLOT, text)


class _Text(logging.Formatter):
    """Lines for people."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _Json(logging.Formatter):
    """Lines for a log store: one object each, whatever the message holds."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, str | int] = {
            "time": f"{self.formatTime(record, _SECONDS)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "pid": record.process or 0,
            "message": without_secrets(record.getMessage()),
        }
        if record.exc_info:
            told["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(told, ensure_ascii=True)
