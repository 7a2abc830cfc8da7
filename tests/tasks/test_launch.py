"""Launching training on one node and on several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_services.servers import free_port
from tasks.launch import num_nodes, torchrun

PROGRAM = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([1.0 + dist.get_rank()])
dist.all_reduce(total)
if dist.get_rank() == 0:
    print(dist.get_world_size(), total.item(), os.environ["GROUP_WORLD_SIZE"], flush=True)
dist.destroy_process_group()
"""
ONE_MACHINE = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]


def test_one_machine() -> None:
    assert torchrun(2, {}) == [*ONE_MACHINE, "2", "--standalone"]
    assert torchrun(2, {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}) == [*ONE_MACHINE, "2", "--standalone"]


def test_slurm_starts_one_torchrun_a_node_and_they_meet_here() -> None:
    command = torchrun(8, {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "12345"})
    assert command[:4] == ["srun", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1"]
    assert command[command.index("--nproc-per-node") + 1] == "8"
    assert command[command.index("--nnodes") + 1] == "4"
    assert command[command.index("--rdzv-endpoint") + 1].endswith(":29745")


def test_nodes_of_a_job() -> None:
    assert num_nodes({}) == 1
    assert num_nodes({"SLURM_JOB_NUM_NODES": "4"}) == 4
    assert num_nodes({"PET_NNODES": "2:8", "SLURM_JOB_NUM_NODES": "4"}) == 8


@pytest.mark.parametrize(("gpus", "auto", "two"), [(4, "4", "2"), (1, "1", "1"), (0, "1", "2")])
def test_no_gpu_gets_two_processes(gpus: int, auto: str, two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert torchrun("auto", {})[4] == auto
    assert torchrun(2, {})[4] == two


def test_two_nodes_of_a_job_compute_together(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    job = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    nodes = []
    for rank in range(2):
        environment = {**os.environ, **job, "PET_NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        command = [*torchrun(2, environment), "program.py"]
        nodes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True))
    first, second = (node.communicate(timeout=120)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0]
    assert first.strip() == "4 10.0 2"
    assert second.strip() == ""
