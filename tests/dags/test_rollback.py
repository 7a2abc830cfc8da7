"""The DAG rollback: one task that updates the champion."""

from typing import Any


def test_it_is_started_by_hand_and_updates_the_champion(bag: Any) -> None:
    dag = bag.dags["rollback"]
    (task,) = dag.tasks
    assert dag.schedule is None
    assert [asset.name for asset in task.outlets] == ["atspeed_champion"]
    assert task.queue == "cpu"
