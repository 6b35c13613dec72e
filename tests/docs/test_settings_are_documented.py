"""docs/settings.md and the table of settings say the same."""

from dataclasses import MISSING, Field
from pathlib import Path

import pytest

from tramontane.runtime.clusters import OPTIONS
from tramontane.runtime.settings import CLIENT_VARIABLES, TABLE, Setting

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_each_setting_has_its_row(setting: Setting) -> None:
    shown = {None: "unset", True: "true", False: "false"}.get(setting.default)
    default = setting.default if isinstance(setting.default, str) else shown
    default = setting.default if default is None or type(setting.default) is int else default
    variable = f"TRAMONTANE_{setting.name.upper()}"
    row = f"| `{setting.name}` | `{variable}` | {default} | {setting.meaning} |"
    assert row in PAGE


def test_each_client_variable_has_its_row() -> None:
    assert all(f"| `{name}` | {text} |" in PAGE for name, text in CLIENT_VARIABLES.items())


def test_the_page_names_no_setting_that_is_gone() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE) + len(CLIENT_VARIABLES) + len(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_option_of_a_slurm_cluster_has_its_row(option: Field[object]) -> None:
    default = option.default
    if default is MISSING:
        default = "needed" if option.default_factory is MISSING else "empty"
    shown = {None: "unset", True: "true", False: "false", (): "empty"}
    default = default if type(default) is int else shown.get(default, default)
    assert f"| `{option.name}` | {default} | " in PAGE
