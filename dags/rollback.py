"""One click back to the champion before."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset
from atspeed_dags.command import CommandOperator
from atspeed_dags.policy import CPU, TASK_DEFAULTS, deadline
from atspeed_dags.presets import dataset_param

CHAMPION = Asset("atspeed_champion", uri="atspeed://models/champion")

DOC = """
### Back to the champion before

Swaps the aliases `champion` and `previous` in MLflow; `batch_recommend` then recommends with the restored model.

* A second run swaps them back; a retry of the same run does not.
* The same from a shell: `make rollback`.
"""

PARAMS = {
    "dataset": dataset_param("Whose champion."),
}


def build(**options: Any) -> DAG:
    """The DAG; `dag.test()` wants it without a deadline."""
    with DAG(
        "rollback",
        description="Put the previous champion back into service",
        schedule=None,
        start_date=datetime(2016, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=1),
        default_args=TASK_DEFAULTS,
        params=PARAMS,
        tags=["atspeed", "registry"],
        doc_md=DOC,
        **options,
    ) as dag:
        CommandOperator(
            task_id="rollback",
            module="tasks.promotion.rollback",
            arguments=["--dataset={{ params.dataset }}", "--run-id={{ run_id }}"],
            doc_md="Swap `champion` and `previous`; a retry of the same run does not swap them again.",
            outlets=[CHAMPION],
            **CPU.options(10),
        )
    return dag


dag = build(deadline=deadline(hours=0.5))
