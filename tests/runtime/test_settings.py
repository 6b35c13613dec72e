"""Settings: the order of sources, and one clear line for everything that does not fit."""

from pathlib import Path

import pytest

from tramontane.runtime.settings import SettingsError, load


def test_defaults(tmp_path: Path) -> None:
    settings = load({}, {}, tmp_path)
    assert settings.home == tmp_path / ".tramontane"
    assert settings.port == 8080
    assert settings.database_url == f"sqlite:///{tmp_path}/.tramontane/tramontane.sqlite"
    assert settings.demo is True


def test_an_option_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "tramontane.toml").write_text("port = 1\nhost = 'a'\ncluster = 'file'\n")
    environment = {"TRAMONTANE_PORT": "2", "TRAMONTANE_HOST": "b"}
    settings = load({"port": 3, "host": None}, environment, tmp_path)
    assert (settings.port, settings.host, settings.cluster) == (3, "b", "file")


def test_paths_begin_at_the_folder_and_links_are_kept(tmp_path: Path) -> None:
    """A virtual environment's interpreter is a link: resolved, it would lose its packages."""
    (tmp_path / "python").symlink_to("/usr/bin/env")
    settings = load({}, {"TRAMONTANE_VLLM_PYTHON": "python", "TRAMONTANE_HOME": "/srv/t"}, tmp_path)
    assert settings.vllm_python == tmp_path / "python"
    assert settings.home == Path("/srv/t")


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load({}, {"TRAMONTANE_PORT": ""}, tmp_path).port == 8080


def test_another_settings_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("demo = false\n")
    variables = {"TRAMONTANE_CONFIG": str(tmp_path / "other.toml")}
    assert load({}, variables, tmp_path).demo is False


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRAMONTANE_PORT": "eighty"}, "TRAMONTANE_PORT must be a whole number, 0 to 65535"),
        ({"TRAMONTANE_PORT": "70000"}, "0 to 65535, not '70000'"),
        ({"TRAMONTANE_PORT": "-1"}, "not '-1'"),
        ({"TRAMONTANE_PORT": "9" * 5000}, "must be a whole number"),
        ({"TRAMONTANE_NODE_MEMORY_BYTES": "0"}, "at least 1"),
        ({"TRAMONTANE_DEMO": "maybe"}, "TRAMONTANE_DEMO must be true or false"),
        ({"TRAMONTANE_LOG_LEVEL": "loud"}, "log_level must be debug"),
        ({"TRAMONTANE_DATABASE_URL": "mysql://x"}, "database_url must begin with"),
        ({"TRAMONTANE_JOBS_KEEP_DAYS": "7"}, "set jobs_keep_days to 30 or more, or to 0"),
        ({"TRAMONTANE_JOB_FILES_KEEP_DAYS": "0"}, "set jobs_keep_days to 0 (for ever)"),
        ({"TRAMONTANE_LOG_FORMAT": "xml"}, "log_format must be text or json, not 'xml'"),
        ({"TRAMONTANE_METRICS_PORT": "x"}, "TRAMONTANE_METRICS_PORT must be a whole number"),
        ({"TRAMONTANE_OTEL_ENDPOINT": "c:4318"}, "must begin with http:// or https://"),
        ({"TRAMONTANE_TLS_CERTIFICATE": "c.pem"}, "needs tls_key; set both or neither"),
        (
            {"TRAMONTANE_REPLICA_TLS_CERTIFICATE": "c", "TRAMONTANE_REPLICA_TLS_KEY": "k"},
            "needs replica_tls_ca",
        ),
        ({"TRAMONTANE_CONFIG": "/nowhere/at/all.toml"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(
    environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, environment, tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "did you mean port?"),
        ("zzz = 1", "docs/settings.md lists all"),
        ("port = ", "is not TOML"),
        ("port = true", "must be a whole number"),
        ("host = ['a']", "must be a text"),
    ],
)
def test_a_bad_file_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "tramontane.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({}, {}, tmp_path)
    assert expected in str(caught.value)
