"""What a tenant can do to the Slurm driver from its own Unix user, and what it cannot."""

from pathlib import Path

from tramontane.drivers.slurm.folders import Folders

REP = "rep_00000000000000000000000000000001"


def test_a_launch_that_no_parser_takes_hides_no_log(tmp_path: Path) -> None:
    run_dir = tmp_path / "tenant" / "replicas" / REP
    run_dir.mkdir(parents=True)
    (run_dir / "engine.log").write_text("a line\n")
    for launch in ("[" * 100_000, "[1]", '{"env": 1}', '{"env": [[]]}', "\xff"):
        (run_dir / "launch.json").write_text(launch)
        folders = Folders(tmp_path)
        assert folders.last_lines(REP, ("tenant", "replicas", REP), 10) == ["a line"]
