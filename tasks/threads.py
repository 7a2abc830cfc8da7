"""How many threads a stage computes with on the CPU, and how they wait for each other.

One thread below SMALL_PARAMETERS: a second one gains a little on a quiet machine and costs a multiple on a busy one,
where every parallel region waits for a thread that does not run. It also keeps the figures of a small model independent
of the machine's cores: sums over one, two or four threads round differently.
"""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch and the settings take a moment, and the first thing any command does is `wait_briefly`
    from atspeed_core.settings import Architecture, Params

SMALL_PARAMETERS = 5_000_000
# By default a waiting thread of GNU's OpenMP spins some 300,000 times before it sleeps, one of Intel's for 200 ms.
# Measured with 11 M parameters, ms per update on two cores, quiet / one of them busy: one thread 401 / 412; two threads
# 258 / 747, with 3000 spins 227 / 484, with none (OMP_WAIT_POLICY=PASSIVE) 385 / 435.
WAITING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}


def wait_briefly() -> None:
    """Let threads of this process and those that it starts sleep after a short wait; call it before torch is imported.

    What the environment already specifies stays.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def num_threads(params: "Params", environment: Mapping[str, str] = os.environ) -> int:
    """Threads of a stage: `threads` of params.yaml; for "auto" OMP_NUM_THREADS, or else by the target's size."""
    if params.threads != "auto":
        return params.threads
    given = environment.get("OMP_NUM_THREADS", "").split(",")[0]  # one number per level of nesting
    if given.isdigit():
        return max(1, int(given))
    shape = params.finetune_target.architecture
    if shape is not None and parameters(shape, params.build_identifiers.num_codes) < SMALL_PARAMETERS:
        return 1
    return num_cores()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parameters(shape: "Architecture", num_codes: int) -> int:
    """Number of weights of a model of `shape` with `num_codes` tokens, without norms and special tokens."""
    layer = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size
    embeddings = num_codes * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    return embeddings + shape.num_layers * layer


def use_threads(number: int) -> None:
    """Compute with `number` threads in this process and those that it starts."""
    os.environ["OMP_NUM_THREADS"] = str(number)
    if torch := sys.modules.get("torch"):  # what is imported later reads the environment
        torch.set_num_threads(number)
