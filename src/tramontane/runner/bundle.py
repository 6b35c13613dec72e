"""The runner as one file that any node's Python can run: ``python3 -I -S runner.pyz``."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Final

_FOLDER: Final = os.path.dirname(os.path.abspath(__file__))
_ROOT: Final = os.path.dirname(os.path.dirname(_FOLDER))
_MAIN: Final = b"""\
import sys

from tramontane.runner.command import main

sys.exit(main(sys.argv[1:]))
"""
_AT: Final = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same sources


def zip_bytes() -> bytes:
    """Return the file's content; the same sources give the same bytes."""
    names = sorted(name for name in os.listdir(_FOLDER) if name.endswith(".py"))
    sources = {"tramontane/__init__.py": f"{_ROOT}/tramontane/__init__.py"}
    sources.update({f"tramontane/runner/{name}": f"{_FOLDER}/{name}" for name in names})
    contents = {"__main__.py": _MAIN}
    for place, source in sources.items():
        with open(source, "rb") as file:
            contents[place] = file.read()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for place, content in contents.items():
            entry = zipfile.ZipInfo(place, _AT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, compresslevel=9)
    return made.getvalue()
