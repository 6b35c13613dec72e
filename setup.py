"""Builds the gateway's hot path compiled, when TRAMONTANE_COMPILED=1 says so; else nothing.

Everything else about the package stands in pyproject.toml. docs/howto/compiled-gateway.md tells
how to use it, docs/decisions/0017-optional-compilation.md why it is this way.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import setup

IS_COMPILED = os.environ.get("TRAMONTANE_COMPILED") == "1"
GATEWAY = Path("src/tramontane/gateway")
# Off the hot path: what happens once in a process, a second or a page.
INTERPRETED = ("alone/", "control_plane/", "telemetry/", "openapi.py", "probe.py", "tls.py")
# But these, which every request passes.
COMPILED = ("telemetry/series.py",)
# msgspec makes these classes at run time, which a compiler cannot follow.
STRUCT = re.compile(r"^class \w+\(.*Struct\b", re.MULTILINE)
MYPY = "mypy==2.4.1"  # as in requirements/dev.txt


def modules() -> list[str]:
    """Return the paths of the modules to compile."""
    found = []
    for path in sorted(GATEWAY.rglob("*.py")):
        name = path.relative_to(GATEWAY).as_posix()
        if path.name == "__init__.py" or STRUCT.search(path.read_text(encoding="utf-8")):
            continue
        if name in COMPILED or not name.startswith(INTERPRETED):
            found.append(str(path))
    return found


def extensions() -> list[object]:
    """Return the extension modules: none unless they are asked for."""
    if not IS_COMPILED or {"egg_info", "dist_info"} & set(sys.argv):  # which build nothing
        return []
    if {"editable_wheel", "develop"} & set(sys.argv):
        sys.exit("an editable install stays interpreted: leave -e or TRAMONTANE_COMPILED=1 out")
    from mypyc.build import mypycify  # noqa: PLC0415 - only builds that compile have it

    os.environ["MYPYPATH"] = "src"
    return mypycify(
        ["--config-file", "pyproject.toml", *modules()],
        opt_level="3",
        debug_level="0",
        target_dir="build/c",
        group_name="tramontane_gateway",
    )


if __name__ == "__main__":
    asks = IS_COMPILED and "egg_info" in sys.argv  # a front end, for what the build needs
    setup(ext_modules=extensions(), setup_requires=[MYPY] if asks else [])
