"""How training is launched: torchrun on this machine, or on every node of the job that this process runs in.

- Slurm: with more than one node in the allocation, one torchrun per node through `srun`; their rendezvous is this node.
- torchrun's own variables (PET_NNODES, PET_NODE_RANK, PET_RDZV_ENDPOINT, ...), as a Kubernetes training operator sets
  them: torchrun reads them, and the other nodes run the same command.
- Otherwise: this machine alone.
"""

import os
import socket
import sys
from collections.abc import Mapping
from typing import Literal

PORT = 29_400  # of the rendezvous in a Slurm job, plus an offset that differs between jobs of one machine
PORTS = 1_000


def torchrun(num_processes: int | Literal["auto"], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The start of the command line; module and arguments follow.

    Args:
        num_processes: per node, see `processes`.
        environment: of the job.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes(num_processes))]
    if "PET_NNODES" in environment:
        return command
    if (nodes := num_nodes(environment)) > 1:
        job = int(environment["SLURM_JOB_ID"])
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", str(job), "--rdzv-endpoint"]
        step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        return [*step, *command, "--nnodes", str(nodes), *rendezvous, f"{socket.gethostname()}:{PORT + job % PORTS}"]
    return [*command, "--standalone"]


def num_nodes(environment: Mapping[str, str] = os.environ) -> int:
    """Number of nodes of the job; of an elastic one (PET_NNODES "2:4") the maximum."""
    nodes = environment.get("PET_NNODES") or environment.get("SLURM_JOB_NUM_NODES") or "1"
    return int(nodes.split(":")[-1])


def processes(num_processes: int | Literal["auto"]) -> int:
    """Number of processes per node: at most one per GPU where there is any; "auto": one per GPU, else one."""
    if num_processes == 1:
        return 1
    import torch

    gpus = torch.cuda.device_count()
    return max(1, gpus) if num_processes == "auto" else min(num_processes, gpus or num_processes)
