"""Slurm clusters in the settings file: what is read, and one clear line for what does not fit."""

from pathlib import Path

import pytest

from tramontane.runtime.settings import Settings, SettingsError, load

LEAST = """
[slurm.alps]
url = "http://127.0.0.1:6820"
jwt_key = "jwt.key"
work_root = "/shared"
"""


def read(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "tramontane.toml").write_text(text)
    return load({}, {}, tmp_path)


def test_the_least_that_a_cluster_needs(tmp_path: Path) -> None:
    (alps,) = read(tmp_path, LEAST).slurm
    assert (alps.name, alps.url) == ("alps", "http://127.0.0.1:6820")
    assert alps.jwt_key == tmp_path / "jwt.key"
    assert alps.work_root == Path("/shared")
    assert (alps.admin_user, alps.default_user, alps.manage_accounts) == ("root", None, True)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    more = """
manage_accounts = false
account = "proj1"
setup = ["module load cuda/12"]
container = ["apptainer", "exec", "/images/vllm.sif"]
walltime_s = 86400
timeout_s = 1
networks = ["10.0.0.0/16", "2001:db8::/64"]
site = "par1"
country = "FR"
[slurm.alps.users]
acme = "acme-svc"
"acme/research" = "acme-res"
[slurm.alps.qos]
spot = "scavenge"
"""
    (alps,) = read(tmp_path, f"cluster = 'here'\n{LEAST}{more}").slurm
    assert alps.users == {"acme": "acme-svc", "acme/research": "acme-res"}
    assert alps.qos == {"spot": "scavenge"}
    assert alps.container == ("apptainer", "exec", "/images/vllm.sif")
    assert alps.walltime_s == 86_400
    assert alps.timeout_s == 1
    assert alps.manage_accounts is False
    assert (alps.account, alps.setup) == ("proj1", ("module load cuda/12",))
    assert (alps.site, alps.country) == ("par1", "FR")
    assert alps.networks == ("10.0.0.0/16", "2001:db8::/64")


def test_a_file_elsewhere_has_its_paths_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "t.toml").write_text(LEAST)
    settings = load({}, {"TRAMONTANE_CONFIG": str(folder / "t.toml")}, tmp_path)
    assert settings.slurm[0].jwt_key == folder / "jwt.key"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slurm = 1", "slurm in"),
        ("[slurm]\nalps = 1", "[slurm.alps]"),
        ("[slurm.'a b']\nurl = 'x'", "must be of a-z"),
        ("[slurm.alps]\nurl = 'http://x'", "needs jwt_key"),
        (LEAST + "jwtkey = 'x'", "there is no option 'jwtkey'; did you mean jwt_key?"),
        (LEAST + "qqqq = 'x'", "there is no option 'qqqq'"),
        (LEAST + "site = 5", "site must be a text of one line"),
        (LEAST + "setup = [5]", "setup must be a list of lines"),
        (LEAST + "[slurm.alps.qos]\nspot = 5", "qos must be a table of names"),
        (LEAST + 'networks = ["10.0.0.1/8"]', "networks: 10.0.0.1/8 has host bits set"),
        (LEAST + "timeout_s = 0", "timeout_s must be a whole number above 0"),
        (LEAST + "timeout_s = true", "timeout_s must be a whole number above 0"),
        (LEAST + "manage_accounts = 'no'", "manage_accounts must be true or false"),
        (LEAST + "setup = 'module load x'", "setup must be a list of lines"),
        (LEAST + 'setup = ["a\\nb"]', "setup must be a list of lines"),
        (LEAST + "users = ['a']", "users must be a table"),
        (LEAST + "[slurm.alps.users]\nacme = 'root; id'", "is not a Unix user name"),
        (LEAST + "default_user = '-x'", "is not a Unix user name"),
        (LEAST + "account_prefix = 'tmt'", "with one underscore at its end, such as tmt_"),
        (LEAST + "site = ''", "site must be a text of one line"),
        (LEAST.replace("http://127.0.0.1:6820", "unix:/x"), "must begin with http://"),
        (LEAST.replace(":6820", ":6820x"), "url 'http://127.0.0.1:6820x' must begin with"),
        (LEAST.replace("127.0.0.1:6820", ""), "with a host and a port such as"),
        (LEAST + "report_url = 'http://[::1'", "report_url 'http://[::1' must begin with"),
        (LEAST + "report_url = 'gw:8080'", "report_url 'gw:8080' must begin with"),
        ("cluster = 'alps'\n" + LEAST, "two clusters are named 'alps'"),
        ("run_locally = false", "nothing could run anywhere"),
    ],
)
def test_what_does_not_fit_is_named(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert expected in str(caught.value)
    assert ("did you mean" in str(caught.value)) is ("did you mean" in expected)
    assert "\n" not in str(caught.value)


def test_without_this_machine_a_cluster_may_have_its_name(tmp_path: Path) -> None:
    text = f"run_locally = false\ncluster = 'alps'\n{LEAST}"
    assert read(tmp_path, text).slurm[0].name == "alps"
