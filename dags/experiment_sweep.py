"""Experiments: every chosen method with every change of settings, below one MLflow run."""

from airflow.sdk import DAG, Param, TriggerRule
from atspeed_dags.command import CommandOperator
from atspeed_dags.forms import dataset_param, methods_param, optional_text
from atspeed_dags.policy import CPU, GPU, dag_options

DOC = """
### Experiments

Every chosen method with every change of settings, each in a checkout of its own, all below one parent run in MLflow
with a table that compares them. Stages that several experiments share run once (DVC's run cache). An experiment that
fails does not stop the others.
"""

PARAMS = {
    "dataset": dataset_param("A preset of presets/."),
    "methods": methods_param(["sft", "atspeed_s"], "Draft alignment methods."),
    "overrides": Param(
        [{"align_draft.alpha": 0.5}, {"align_draft.alpha": 0.9}],
        type="array",
        items={"type": "object"},
        title="Settings",
        description="A list of changes to params.yaml, each an object such as {'align_draft.alpha': 0.5}.",
    ),
    "revision": optional_text(
        "Revision", "Branch, tag or commit of the code and data. Empty: what the deployment is set to."
    ),
}


with DAG(
    "experiment_sweep",
    description="Methods x settings below one MLflow run",
    schedule=None,
    params=PARAMS,
    doc_md=DOC,
    **dag_options("experiments", late_hours=24, max_hours=48),
) as dag:
    plan = CommandOperator(
        task_id="plan_sweep",
        module="tasks.sweep.plan_sweep",
        arguments=[
            "--run-id={{ run_id }}",
            "--dataset={{ params.dataset }}",
            "--methods={{ params.methods | join(',') }}",
            "--overrides={{ params.overrides | tojson }}",
            "--revision={{ params.revision or '' }}",
        ],
        returns="experiments",
        doc_md="Check every change of settings and open the parent run.",
        **CPU.options(30),
    )
    experiments = CommandOperator.partial(
        task_id="run_experiment",
        module="tasks.sweep.run_experiment",
        doc_md="Run the whole pipeline for one method with one change of settings.",
        arguments=["--run-id={{ run_id }}"],
        map_index_template="{{ task.mapped[-1] }}",
        **GPU.options(12 * 60),
    ).expand(mapped=plan.output.map(lambda experiment: [f"--name={experiment['name']}"]))
    close = CommandOperator(
        task_id="close_sweep",
        module="tasks.sweep.close_sweep",
        arguments=["--run-id={{ run_id }}"],
        doc_md="Write the table that compares the experiments; it names those that failed.",
        trigger_rule=TriggerRule.ALL_DONE,
        **CPU.options(30),
    )
    plan >> experiments >> close
