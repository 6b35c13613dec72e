"""The budgets of the code: sizes of modules, functions and packages, and banned names."""

import ast
import re
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tramontane"
MODULES = sorted(SOURCE.rglob("*.py"))
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PACKAGE_MODULES_MAX = 15
BANNED = re.compile(r"(Manager|Helper|Util|Handler|Processor)$|^Base")


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_module_size_names_and_docstring(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert ast.get_docstring(tree), "a module says what it is responsible for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name
        if isinstance(node, ast.ClassDef):
            assert not BANNED.search(node.name), node.name


@pytest.mark.parametrize(
    "package", sorted({module.parent for module in MODULES}), ids=lambda path: path.name
)
def test_package_size(package: Path) -> None:
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= PACKAGE_MODULES_MAX


def imported_by(path: Path) -> set[str]:
    """Return the names of the modules that a module imports, as it writes them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = [node.names for node in ast.walk(tree) if isinstance(node, ast.Import)]
    named = [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for names in plain for alias in names} | set(named)


def test_the_runner_and_the_engine_server_import_nothing_else_of_ours() -> None:
    assert not {n for n in imported_by(SOURCE / "llama_server.py") if n.startswith("tramontane")}
    paths = list((SOURCE / "runner").glob("*.py"))
    assert len(paths) > 3
    for path in paths:
        for name in imported_by(path):
            top = name.split(".")[0]
            is_own = name == "tramontane.runner" or name.startswith("tramontane.runner.")
            assert is_own or top in sys.stdlib_module_names, (path.name, name)


def test_the_runner_is_python_3_9() -> None:
    """Nodes of clusters run the Python of their distribution: this is that of RHEL 9."""
    for path in (SOURCE / "runner").glob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
