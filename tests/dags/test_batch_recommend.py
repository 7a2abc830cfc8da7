"""The DAG batch_recommend: a plan, one task per shard, publication."""

from typing import Any


def test_a_change_of_the_champion_starts_it(bag: Any) -> None:
    dag = bag.dags["batch_recommend"]
    assert [asset.name for asset in dag.timetable.asset_condition.objects] == ["atspeed_champion"]


def test_lists_are_published_when_every_shard_has_its_own(bag: Any) -> None:
    dag = bag.dags["batch_recommend"]
    assert dag.get_task("recommend_shard").is_mapped
    assert dag.get_task("publish_recommendations").upstream_task_ids == {"recommend_shard"}


def test_tasks_that_compute_with_models_are_on_the_gpu(bag: Any) -> None:
    assert {task.task_id for task in bag.dags["batch_recommend"].tasks if task.queue == "gpu"} == {"recommend_shard"}
