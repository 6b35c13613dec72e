"""The development cluster is a real one: gangs in one rack, REST, accounting, and a clean end."""

import pytest

from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster

pytestmark = pytest.mark.slow


def test_every_node_is_idle_and_has_its_gpus(slurm: SlurmCluster) -> None:
    shown = slurm.run("sinfo", "--noheader", "--Node", "--format=%N %T %G").splitlines()
    assert [line.strip() for line in shown] == [
        f"{name} idle gpu:gb200:4" for name in slurm.node_names
    ]


def test_a_gang_runs_in_one_rack_with_every_gpu(slurm: SlurmCluster) -> None:
    out = slurm.work_root / "gang"
    job = slurm.run(
        *("sbatch", "--parsable", "-N2", "--gpus-per-node=4", "--mem=100", "--switches=1"),
        f"--output={out}-%j",
        "--wrap=srun -l --export=ALL sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'",
    ).strip()
    until(lambda: "COMPLETED" in slurm.run("sacct", "-nXj", job, "-o", "state"), "the gang")
    told = slurm.work_root.joinpath(f"gang-{job}").read_text().splitlines()
    lines = sorted(line.split(": ", 1)[1].split() for line in told)
    assert [devices for _, devices in lines] == ["0,1,2,3"] * 2
    assert [name for name, _ in lines] in slurm.racks.values()
