"""The gate: a challenger becomes champion, or is refused with its reasons."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param
from atspeed_dags.alerts import RefusalAlert
from atspeed_dags.command import CommandOperator
from atspeed_dags.policy import CPU, TASK_DEFAULTS, deadline
from atspeed_dags.presets import dataset_param

CHALLENGER = Asset("atspeed_challenger", uri="atspeed://models/challenger")
CHAMPION = Asset("atspeed_champion", uri="atspeed://models/champion")

DOC = """
### Challenger against champion

Runs when a night has registered a challenger. Accepted only if its strict lists are those of `generate` for every test
user and K, Recall and NDCG are not below the champion's by more than the tolerance (paired bootstrap over the same
users), accepted steps and speedup reach their floors, and it is not slower on the same device. A refusal is **skipped**
here, not failed: every reason is in the log of `gate`, in MLflow as tags of the model version, and in the alert.

**With approval** (`nightly.gate.approval` in the preset): an accepted challenger waits. Trigger this DAG by hand with
its version and *Approved*.
"""

PARAMS = {
    "dataset": dataset_param("Whose challenger; a run started by a night takes the night's."),
    "version": Param(
        None,
        type=["null", "string"],
        title="Version",
        description="Version of the registered recommender. Empty: the challenger.",
    ),
    "approved": Param(
        False,
        type="boolean",
        title="Approved",
        description="A person has looked at this challenger and agrees. Needed where the preset asks for approval.",
    ),
}
NIGHT = "{% set events = triggering_asset_events.values() | map('last') | list %}"
DATASET = NIGHT + "{{ events[-1].extra.dataset if events else params.dataset }}"
VERSION = NIGHT + "{{ events[-1].extra.version if events else (params.version or '') }}"


def build(**options: Any) -> DAG:
    """The DAG; `dag.test()` wants it without a deadline."""
    with DAG(
        "promote",
        description="The gate between a challenger and service",
        schedule=[CHALLENGER],
        start_date=datetime(2016, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=2),
        default_args=TASK_DEFAULTS,
        params=PARAMS,
        tags=["atspeed", "registry"],
        doc_md=DOC,
        **options,
    ) as dag:
        gate = CommandOperator(
            task_id="gate",
            module="tasks.promotion.gate",
            arguments=[
                f"--dataset={DATASET}",
                f"--version={VERSION}",
                "{{ '--approved' if params.approved else '' }}",
            ],
            doc_md="Judge the challenger against the current champion; skipped when it is refused.",
            on_skipped_callback=RefusalAlert(),
            **CPU.options(30),
        )
        promote = CommandOperator(
            task_id="promote",
            module="tasks.promotion.promote",
            arguments=[f"--dataset={DATASET}", "--version={{ ti.xcom_pull(task_ids='gate', key='version') }}"],
            doc_md="Set the aliases `champion` and `previous`.",
            outlets=[CHAMPION],
            **CPU.options(30),
        )
        gate >> promote
    return dag


dag = build(deadline=deadline(hours=1))
