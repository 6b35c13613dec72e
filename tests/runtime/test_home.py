"""The home: what is refused leaves the folder as it was; what is secret is private."""

import json
import os
from pathlib import Path

import pytest

from tramontane.runtime.home import Credentials, Home, HomeError


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_home_is_private_and_reopens_with_the_same_secrets(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.open()
    secrets = home.secrets()
    home.close()
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert (home.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    again = Home(home.path)
    again.open()
    assert again.secrets() == secrets
    again.close()


def test_credentials_are_private_and_come_back(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.open()
    assert home.read_credentials() is None
    credentials = Credentials("http://h/v1", "a", "b", "http://h/console", "o", "p")
    home.write_credentials(credentials)
    assert home.read_credentials() == credentials
    assert home.credentials_path.stat().st_mode & 0o777 == 0o600
    home.credentials_path.write_text("{torn")
    assert home.read_credentials() is None
    home.close()


def test_a_second_opener_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    first = Home(tmp_path / "home")
    first.open()
    before = listing(first.path)
    with pytest.raises(HomeError, match=f"another tramontane runs .*pid {os.getpid()}"):
        Home(first.path).open()
    assert listing(first.path) == before
    first.close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps({"format": 99, "version": "9.9"}), "written by a newer version \\(9.9"),
        (json.dumps({"version": "9.9"}), "does not say which format"),
        (json.dumps([1]), "must hold a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_home_that_we_do_not_understand_is_left_alone(
    content: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "home.json").write_text(content)
    before = listing(tmp_path)
    with pytest.raises(HomeError, match=expected):
        Home(tmp_path).open()
    assert listing(tmp_path) == before


def test_a_home_below_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"choose another with --home DIR|cannot use the home"):
        Home(tmp_path / "file" / "home").open()
