"""Folders that their owner may not write to are removed by a remover who is nobody special."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOBODY = 65_534
# Becomes somebody else when all that it needs is open and imported.
REMOVE = f"""
import ctypes, os, sys
from tramontane.runtime.tenant_trees import remove_piece
folder = os.open(sys.argv[1], os.O_RDONLY)
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as if it had always been that user
print(remove_piece(folder, "cache"))
"""


def test_a_cache_of_read_only_folders_goes(tmp_path: Path) -> None:
    deep = tmp_path / "cache" / "module" / "source" / "inner"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    for folder, mode in zip((deep, *deep.parents[:3]), (0, 0o555, 0o555, 0o333), strict=True):
        folder.chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", REMOVE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr
    assert list(tmp_path.iterdir()) == []
