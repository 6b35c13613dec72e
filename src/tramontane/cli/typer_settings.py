"""What every Typer app of ours is made with, so that help and completion start fast."""

from typing import Any, Final

# Typer's own flags default to None, and to check a None it loads pydantic: 100 ms for nothing.
QUICK: Final[dict[str, Any]] = {
    "default_map": {"help": False, "install_completion": False, "show_completion": False}
}
