"""The runner as one file."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.attempts import AttemptRunner, job_launch
from tramontane.runner import bundle


def test_the_same_sources_give_the_same_bytes() -> None:
    assert bundle.zip_bytes() == bundle.zip_bytes()
    assert len(bundle.zip_bytes()) < 64 << 10  # it travels in a batch script


def test_it_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "runner.pyz"
    path.write_bytes(bundle.zip_bytes())
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        for name in names:
            ast.parse(archive.read(name), feature_version=(3, 9))
    folder = Path(bundle.__file__).parent
    expected = {f"tramontane/runner/{file.name}" for file in folder.glob("*.py")}
    assert names == expected | {"__main__.py", "tramontane/__init__.py"}


@pytest.mark.slow
def test_it_runs_alone(tmp_path: Path) -> None:
    """Without our sources, from any folder, even beside a package that would take its place."""
    path = tmp_path / "shipped" / "runner.pyz"
    path.parent.mkdir()
    path.write_bytes(bundle.zip_bytes())
    for trap in (tmp_path / "tramontane", path.parent / "tramontane"):
        trap.mkdir()
        (trap / "__init__.py").write_text("raise SystemExit('not this one')")
    with AttemptRunner(tmp_path, job_launch("echo", "ran")) as run:
        words = ["--run-dir", str(run.dir), "--attempt", run.id]
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(path), *words],
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0
        assert run.output() == "ran\n"
        assert run.report()["outcome"] == "succeeded"
