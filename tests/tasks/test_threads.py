"""How many threads a stage computes with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from atspeed_core.models.building import build_model
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import Params, load_params
from tasks.threads import num_cores, num_threads, parameters, use_threads

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "params.yaml"


def params(**changes: object) -> Params:
    raw = yaml.safe_load(DEFAULT.read_text())
    shape = raw["finetune_target"]["architecture"]
    return Params.model_validate(
        {**raw, "threads": changes.pop("threads", "auto")}
        | {"finetune_target": raw["finetune_target"] | {"architecture": shape | changes}}
    )


def test_a_small_target_takes_one_thread_and_a_larger_one_every_core() -> None:
    assert num_threads(params(), {}) == 1
    assert num_threads(params(hidden_size=512, num_layers=6, intermediate_size=1024), {}) == num_cores()


def test_the_params_come_before_the_environment_and_the_environment_before_the_size() -> None:
    assert num_threads(params(), {"OMP_NUM_THREADS": "3,1"}) == 3
    assert num_threads(params(), {"OMP_NUM_THREADS": "many"}) == 1
    assert num_threads(params(threads=5), {"OMP_NUM_THREADS": "3"}) == 5


@pytest.mark.parametrize("tied", [True, False])
def test_the_size_of_a_target_is_known_without_building_it(tied: bool) -> None:
    settings = load_params(DEFAULT)
    shape = settings.finetune_target.architecture
    assert shape is not None
    shape = shape.model_copy(update={"tie_embeddings": tied})
    tokens = [f"<{letter}_{code}>" for letter in "abcd" for code in range(256)]
    exact = build_model(shape, build_tokenizer(tokens), seed=0).num_parameters()
    assert parameters(shape, settings.build_identifiers.num_codes) == pytest.approx(exact, rel=0.01)


def test_the_number_holds_for_this_process_and_for_those_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    use_threads(2)
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"
    torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "expected"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_every_command_sets_how_threads_wait_before_torch_is_there(given: dict[str, str], expected: str) -> None:
    program = "import sys, os, tasks; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
