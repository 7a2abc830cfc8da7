"""Methods times settings, side by side under one MLflow run."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, TriggerRule
from atspeed_dags.command import CommandOperator
from atspeed_dags.policy import CPU, GPU, TASK_DEFAULTS, deadline
from atspeed_dags.presets import METHODS, dataset_param

DOC = """
### Experiments

Every chosen method with every change of settings, each in a checkout of its own, all below one parent run in MLflow
with a table that compares them. Stages that several experiments share run once (DVC's run cache). An experiment that
fails does not stop the others.
"""

PARAMS = {
    "dataset": dataset_param("A preset of presets/."),
    "methods": Param(
        ["sft", "atspeed_s"],
        type="array",
        items={"type": "string", "enum": METHODS},
        examples=METHODS,
        minItems=1,
        title="Methods",
        description="Draft alignment methods.",
    ),
    "overrides": Param(
        [{"align_draft.alpha": 0.5}, {"align_draft.alpha": 0.9}],
        type="array",
        items={"type": "object"},
        title="Settings",
        description="A list of changes to params.yaml, each an object such as {'align_draft.alpha': 0.5}.",
    ),
    "revision": Param(
        None,
        type=["null", "string"],
        title="Revision",
        description="Branch, tag or commit of the code and data. Empty: what the deployment is set to.",
    ),
}


def build(**options: Any) -> DAG:
    """The DAG; `dag.test()` wants it without a deadline."""
    with DAG(
        "experiment_sweep",
        description="Methods x settings, one MLflow parent",
        schedule=None,
        start_date=datetime(2016, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=48),
        default_args=TASK_DEFAULTS,
        params=PARAMS,
        tags=["atspeed", "experiments"],
        doc_md=DOC,
        **options,
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
            doc_md="Check every change of settings, open the parent run.",
            **CPU.options(30),
        )
        experiments = CommandOperator.partial(
            task_id="run_experiment",
            module="tasks.sweep.run_experiment",
            doc_md="One method with one change of settings, the whole pipeline.",
            arguments=["--run-id={{ run_id }}"],
            map_index_template="{{ task.mapped[-1] }}",
            **GPU.options(12 * 60),
        ).expand(mapped=plan.output.map(lambda experiment: [f"--name={experiment['name']}"]))
        close = CommandOperator(
            task_id="close_sweep",
            module="tasks.sweep.close_sweep",
            arguments=["--run-id={{ run_id }}"],
            doc_md="The table that compares the experiments; those that failed are named in it.",
            trigger_rule=TriggerRule.ALL_DONE,
            **CPU.options(30),
        )
        plan >> experiments >> close
    return dag


dag = build(deadline=deadline(hours=24))
