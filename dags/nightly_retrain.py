"""The night: takes in a day's interactions, runs every stage of dvc.yaml and registers a challenger."""

import os
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TaskGroup, TriggerRule, task_group
from atspeed_dags.assets import CHALLENGER
from atspeed_dags.command import CloseOperator, CommandOperator
from atspeed_dags.forms import DEFAULT_METHODS, dataset_param, methods_param, optional_floor, optional_text
from atspeed_dags.policy import CPU, GPU, LARGE_CPU, Place, dag_options

CRON = os.environ.get("ATSPEED_CRON") or "0 2 * * *"
CHECKOUT = "{{ ti.xcom_pull(task_ids='open_run', key='checkout') }}"

# The stages by their names in dvc.yaml, with what each one waits for; tests/dags/test_nightly_retrain.py compares these
# edges with those of dvc.yaml.
STAGES: dict[str, list[str]] = {
    "warm_start": [],
    "prepare_data": [],
    "build_identifiers": ["warm_start", "prepare_data"],
    "finetune_target": ["warm_start", "prepare_data", "build_identifiers"],
    "cache_topk": ["prepare_data", "build_identifiers", "finetune_target"],
    "evaluate_target": ["prepare_data", "build_identifiers", "finetune_target"],
    "align_draft": ["warm_start", "prepare_data", "build_identifiers", "finetune_target", "cache_topk"],
    "evaluate": ["prepare_data", "build_identifiers", "finetune_target", "evaluate_target", "align_draft"],
    "report": [
        "prepare_data",
        "build_identifiers",
        "finetune_target",
        "evaluate_target",
        "align_draft",
        "evaluate",
    ],
}
MAPPED = ("align_draft", "evaluate")

# Where each stage runs, and for how many minutes at most.
PLACES: dict[str, tuple[Place, float]] = {
    "warm_start": (CPU, 30),
    "prepare_data": (LARGE_CPU, 120),
    "build_identifiers": (LARGE_CPU, 120),
    "finetune_target": (GPU, 8 * 60),
    "cache_topk": (GPU, 4 * 60),
    "evaluate_target": (GPU, 2 * 60),
    "align_draft": (GPU, 4 * 60),
    "evaluate": (GPU, 2 * 60),
    "report": (CPU, 30),
}

WHAT_STAGES_DO = {
    "warm_start": "Take identifiers, target and drafts from the champion (nothing on a full retrain).",
    "prepare_data": "Filter, split and check the interactions known so far.",
    "build_identifiers": "Known items keep their identifier, new ones receive one; rebuilt in full when quality falls.",
    "finetune_target": "Train the target with DeepSpeed, from the champion's weights where possible.",
    "cache_topk": "The target's top-K sequences for the training users, shard by shard.",
    "evaluate_target": "Reference lists by `generate` of transformers; Recall and NDCG of target and baselines.",
    "align_draft": "Align this method's draft with the target.",
    "evaluate": "Accepted steps, speedup, identity, Recall and NDCG of this method's draft.",
    "report": "results/metrics.json, summary.md and report.html.",
}

DOC = """
### One night

Takes in the interactions of the data interval's day, runs every stage of `dvc.yaml` in a private checkout, commits and
tags a green night `nightly/DATE`, and registers its models as **challenger** in MLflow; the DAG `promote` decides.

* **No new data**: `ingest` is skipped, and with it the rest; that is no failure.
* **A check of the data failed** (`check_interactions`, red, no retry): the reasons are in its log. Correct the feed's
  file or raise the bound in `presets/`, then clear the run.
* **A stage failed**: clear it. It resumes from its last checkpoint in the same checkout.
* **A date of the past**: create a backfill, or trigger with `date`. It sees only the days up to its own.
* **Go back**: the DAG `rollback`.
"""

PARAMS = {
    "dataset": dataset_param("A preset of presets/: where the interactions come from and what changes in params.yaml."),
    "date": optional_text(
        "Day",
        "The day whose interactions are taken in. Empty: the day of the data interval, or yesterday.",
        format="date",
    ),
    "methods": methods_param(DEFAULT_METHODS, "Draft alignment methods to train and evaluate."),
    "full_retrain": Param(
        False, type="boolean", title="Full retrain", description="Start from nothing rather than from the champion."
    ),
    "force": Param(
        None,
        type=["null", "string"],
        enum=[None, "all", *STAGES],
        title="Force a stage",
        description="Run this stage (or all) even if nothing that it depends on has changed.",
        section="For special runs",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Check the data and list the stages that would run; train, commit and register nothing.",
        section="For special runs",
    ),
    "revision": optional_text(
        "Revision",
        "Branch, tag or commit of the code. Empty: what the deployment is set to.",
        section="For special runs",
    ),
    "tolerance": optional_floor(
        "Gate: tolerance",
        "How far Recall and NDCG may lie below the champion's (absolute). Empty: the preset's.",
        section="Gate",
    ),
    "min_accepted_steps": optional_floor(
        "Gate: fewest accepted steps",
        "Floor of AS under strict. Empty: the preset's.",
        section="Gate",
    ),
    "min_walltime_speedup": optional_floor(
        "Gate: smallest speedup",
        "Floor of WS under strict. Empty: the preset's.",
        section="Gate",
    ),
}
THRESHOLDS = ("tolerance", "min_accepted_steps", "min_walltime_speedup")


def command(task_id: str, doc: str, place: Place = CPU, minutes: float = 30, **options: Any) -> CommandOperator:
    """A task that runs tasks/nightly/TASK_ID.py in the night's checkout."""
    kind = options.pop("kind", CommandOperator)
    module, folder = f"tasks.nightly.{task_id}", options.pop("folder", CHECKOUT)
    return kind(task_id=task_id, module=module, folder=folder, doc_md=doc, **place.options(minutes), **options)


def stage(name: str, *arguments: Any) -> CommandOperator:
    """A task that runs a stage of dvc.yaml."""
    place, minutes = PLACES[name]
    return CommandOperator(
        task_id=name,
        module="tasks.nightly.run_stage",
        arguments=[name, *arguments],
        folder=CHECKOUT,
        doc_md=WHAT_STAGES_DO[name],
        map_index_template="{{ task.arguments[-1] }}" if arguments else None,
        **place.options(minutes),
    )


def gate_argument() -> str:
    """A template of the thresholds that were set in the trigger form, as JSON."""
    values = ", ".join(f"'{name}': params.{name}" for name in THRESHOLDS)
    return "{% set values = {" + values + "} %}{{ dict(values.items() | rejectattr(1, 'none')) | tojson }}"


def open_run() -> CommandOperator:
    """The task that opens the run."""
    day = "{{ params.date or ((data_interval_start or dag_run.run_after - macros.timedelta(days=1)) | ds) }}"
    return command(
        "open_run",
        "Make a private checkout at a pinned commit and open the parent run in MLflow.",
        folder=None,
        returns="methods",
        arguments=[
            "--run-id={{ run_id }}",
            f"--date={day}",
            "--dataset={{ params.dataset }}",
            "--methods={{ params.methods | join(',') }}",
            "--revision={{ params.revision or '' }}",
            "--force={{ params.force or '' }}",
            f"--gate={gate_argument()}",
            "{{ '--full-retrain' if params.full_retrain else '' }}",
            "{{ '--dry-run' if params.dry_run else '' }}",
        ],
    )


def wire_stages(methods: Any, check: CommandOperator) -> CommandOperator:
    """The stages with their edges; returns the last."""
    tasks = {name: stage(name) for name in STAGES if name not in (*MAPPED, "report")}

    @task_group(group_id="drafts", prefix_group_id=False, tooltip="One draft per method")
    def drafts(method: str) -> None:
        for name in MAPPED:
            tasks[name] = stage(name, "--method", method)

    drafts.expand(method=methods)
    tasks["report"] = stage("report")
    for name, before in STAGES.items():
        for earlier in before:
            tasks[earlier] >> tasks[name]
        if not before:
            check >> tasks[name]
    return tasks["report"]


with DAG(
    "nightly_retrain",
    description="New interactions -> retrained target and drafts -> a challenger",
    schedule=CronDataIntervalTimetable(CRON, timezone="UTC"),
    params=PARAMS,
    doc_md=DOC,
    **dag_options("nightly", late_hours=12, max_hours=20),
) as dag:
    opening = open_run().as_setup()
    ingest = command("ingest", "Append the day's interactions and those of days missed since the last night.", CPU, 60)
    check = command("check_interactions", "Check volume, schema and drift before any training time is spent.")
    opening >> ingest >> check
    with TaskGroup("stages", prefix_group_id=False, tooltip="dvc.yaml, one task per stage"):
        report = wire_stages(opening.output, check)
    evaluate_champion = command(
        "evaluate_champion", "Evaluate the champion on tonight's test users, for the gate.", GPU, 2 * 60
    )
    commit = command("commit_night", "Commit dvc.lock, params and figures, with the tag nightly/DATE.")
    register = command(
        "register_challenger",
        "Register target, draft and recommender in MLflow.",
        CPU,
        60,
        outlets=[CHALLENGER],
    )
    close = command(
        "close_run",
        "Send the records that wait, end the parent run, remove the checkout of a green night.",
        kind=CloseOperator,
        folder=None,
        arguments=["--run-id={{ run_id }}"],
        trigger_rule=TriggerRule.ALL_DONE_SETUP_SUCCESS,
    ).as_teardown(setups=opening)  # it does not decide the run's state: a failed night stays failed
    report >> evaluate_champion >> commit >> register >> close
