"""Golden files: what was printed when a person last looked at it and agreed."""

import os
from pathlib import Path

REWRITE = "TRAMONTANE_GOLDEN"  # set to 1 (`make golden`) to accept what is printed now


def assert_golden(path: Path, text: str) -> None:
    """Compare ``text`` with the golden file ``path``; rewrite the file when asked to."""
    if os.environ.get(REWRITE) == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing; `make golden` writes it, then look at it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; see `make golden`"
