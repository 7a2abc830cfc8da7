"""The DAG experiment_sweep: a plan, one task per experiment, a table."""

from typing import Any


def test_the_table_is_written_though_an_experiment_failed(bag: Any) -> None:
    dag = bag.dags["experiment_sweep"]
    assert dag.schedule is None
    assert dag.get_task("run_experiment").is_mapped
    assert dag.get_task("close_sweep").trigger_rule == "all_done"


def test_tasks_that_compute_with_models_are_on_the_gpu(bag: Any) -> None:
    assert {task.task_id for task in bag.dags["experiment_sweep"].tasks if task.queue == "gpu"} == {"run_experiment"}
