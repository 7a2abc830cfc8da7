"""The nightly DAG against dvc.yaml: the same stages, the same edges."""

import json
from pathlib import Path
from typing import Any

import yaml

from atspeed_core.methods import METHODS as REGISTRY
from atspeed_core.methods import wired_methods
from scripts.dag_methods import FILE, content

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
METHODS: list[str] = STAGES["align_draft"]["matrix"]["method"]


def filled(values: list[Any]) -> list[Path]:
    """Paths, for every method where they name one."""
    names = [value if isinstance(value, str) else next(iter(value)) for value in values]
    return [Path(name.replace("${item.method}", method)) for name in names for method in METHODS]


def dvc_edges() -> set[tuple[str, str]]:
    """(stage, stage that reads what it writes) of dvc.yaml."""
    writers = {out: name for name, stage in STAGES.items() for out in filled(stage["outs"])}
    return {
        (writer, name)
        for name, stage in STAGES.items()
        for dep in filled(stage["deps"])
        for out, writer in writers.items()
        if out == dep or out in dep.parents or dep in out.parents
    }


def test_the_stages_are_those_of_dvc_yaml(bag: Any) -> None:
    assert set(STAGES) <= set(bag.dags["nightly_retrain"].task_ids)


def test_the_edges_are_those_of_dvc_yaml(bag: Any) -> None:
    dag = bag.dags["nightly_retrain"]
    edges = {
        (before, task.task_id)
        for task in dag.tasks
        for before in task.upstream_task_ids
        if before in STAGES and task.task_id in STAGES
    }
    assert edges == dvc_edges()


def test_a_stage_is_run_by_its_own_name(bag: Any) -> None:
    for name in STAGES:
        task = bag.dags["nightly_retrain"].get_task(name)
        assert task.module == "tasks.nightly.run_stage"
        assert task.arguments[0] == name


def test_methods_are_mapped_and_each_evaluation_waits_for_its_own_draft(bag: Any) -> None:
    dag = bag.dags["nightly_retrain"]
    for name in ("align_draft", "evaluate"):
        group = dag.get_task(name).task_group
        assert type(group).__name__ == "MappedTaskGroup"
    assert "align_draft" in dag.get_task("evaluate").upstream_task_ids


def test_nothing_of_a_night_runs_before_the_data_are_checked(bag: Any) -> None:
    dag = bag.dags["nightly_retrain"]
    for name in STAGES:
        assert {"open_run", "ingest", "check_interactions"} <= dag.get_task(name).get_flat_relative_ids(upstream=True)


def test_tasks_that_compute_with_models_are_on_the_gpu(bag: Any) -> None:
    assert {task.task_id for task in bag.dags["nightly_retrain"].tasks if task.queue == "gpu"} == {
        "finetune_target",
        "cache_topk",
        "evaluate_target",
        "align_draft",
        "evaluate",
        "evaluate_champion",
    }


def test_a_night_that_failed_is_red_though_it_was_closed(bag: Any) -> None:
    """A teardown that may fail the run would be its only leaf, and its success that of the run."""
    closing = bag.dags["nightly_retrain"].get_task("close_run")
    assert closing.is_teardown
    assert not closing.on_failure_fail_dagrun


def test_the_forms_offer_every_method_and_start_with_those_of_dvc_yaml(bag: Any) -> None:
    assert json.loads(FILE.read_text()) == content(), "run: python -m scripts.dag_methods"
    assert wired_methods() == METHODS
    for name in ("nightly_retrain", "experiment_sweep"):
        schema = bag.dags[name].params.get_param("methods").schema
        assert schema["items"]["enum"] == schema["examples"] == list(REGISTRY.all())
    assert bag.dags["nightly_retrain"].params["methods"] == METHODS
