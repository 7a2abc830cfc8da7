"""Returns to the previous champion."""

from airflow.sdk import DAG
from atspeed_dags.assets import CHAMPION
from atspeed_dags.command import CommandOperator
from atspeed_dags.forms import dataset_param
from atspeed_dags.policy import CPU, dag_options

DOC = """
### Back to the previous champion

Swaps the aliases `champion` and `previous` in MLflow; `batch_recommend` then recommends with the restored model.

* A second run swaps them back; a retry of the same run does not.
* The same from a shell: `make rollback`.
"""

PARAMS = {
    "dataset": dataset_param("Whose champion."),
}


with DAG(
    "rollback",
    description="Put the previous champion back into service",
    schedule=None,
    params=PARAMS,
    doc_md=DOC,
    **dag_options("registry", late_hours=0.5, max_hours=1),
) as dag:
    CommandOperator(
        task_id="rollback",
        module="tasks.promotion.rollback",
        arguments=["--dataset={{ params.dataset }}", "--run-id={{ run_id }}"],
        doc_md="Swap `champion` and `previous`; a retry of the same run does not swap them again.",
        outlets=[CHAMPION],
        **CPU.options(10),
    )
