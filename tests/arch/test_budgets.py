"""The budgets of the code: sizes of modules, functions and packages, and banned names."""

import ast
import re
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


def test_the_runner_and_the_engine_server_import_nothing_of_ours() -> None:
    for name in ("runner.py", "llama_server.py"):
        tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert "tramontane" not in imported, name
