"""The gate: a challenger becomes champion or is refused, with the reasons."""

from airflow.sdk import DAG, Param
from atspeed_dags.alerts import RefusalAlert
from atspeed_dags.assets import CHALLENGER, CHAMPION, from_event
from atspeed_dags.command import CommandOperator
from atspeed_dags.forms import dataset_param, optional_text
from atspeed_dags.policy import CPU, dag_options

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
    "version": optional_text("Version", "Version of the registered recommender. Empty: the challenger."),
    "approved": Param(
        False,
        type="boolean",
        title="Approved",
        description="A person has looked at this challenger and agrees. Needed where the preset asks for approval.",
    ),
}
DATASET = from_event("dataset", otherwise="params.dataset")
VERSION = from_event("version", otherwise="(params.version or '')")


with DAG(
    "promote",
    description="The gate between a challenger and service",
    schedule=[CHALLENGER],
    params=PARAMS,
    doc_md=DOC,
    **dag_options("registry", late_hours=1, max_hours=2),
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
