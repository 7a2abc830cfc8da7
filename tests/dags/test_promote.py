"""The DAG promote: the gate, and then the aliases."""

from typing import Any


def test_a_challenger_starts_it_and_a_promotion_updates_the_champion(bag: Any) -> None:
    dag = bag.dags["promote"]
    assert [asset.name for asset in dag.timetable.asset_condition.objects] == ["atspeed_challenger"]
    assert [asset.name for asset in dag.get_task("promote").outlets] == ["atspeed_champion"]
    assert dag.get_task("promote").upstream_task_ids == {"gate"}


def test_nothing_of_it_needs_a_gpu(bag: Any) -> None:
    assert {task.queue for task in bag.dags["promote"].tasks} == {"cpu"}
