"""Top-K lists for every user, whenever another model goes into service."""

from airflow.sdk import DAG
from atspeed_dags.assets import CHAMPION, from_event
from atspeed_dags.command import CommandOperator
from atspeed_dags.forms import dataset_param, optional_text
from atspeed_dags.policy import CPU, GPU, dag_options

DOC = """
### Lists for every user

Runs when `promote` or `rollback` has put another model into service. Strict speculative decoding, one mapped task per
shard of users. A finished shard is not computed again, so a failed run that is cleared resumes where it stopped. The
lists are in `$ATSPEED_HOME/recommendations/DATASET/current/`.
"""

PARAMS = {
    "dataset": dataset_param("Whose users; a run started by a promotion takes the promoted model's."),
    "version": optional_text("Version", "Version of the registered recommender. Empty: the champion."),
}
DATASET = from_event("dataset", otherwise="params.dataset")
FOLDER = "--folder={{ ti.xcom_pull(task_ids='plan_recommendations', key='folder') }}"


with DAG(
    "batch_recommend",
    description="Top-K lists of the champion for every user",
    schedule=[CHAMPION],
    params=PARAMS,
    doc_md=DOC,
    **dag_options("recommendations", late_hours=8, max_hours=12),
) as dag:
    plan = CommandOperator(
        task_id="plan_recommendations",
        module="tasks.recommendations.plan_recommendations",
        arguments=[f"--dataset={DATASET}", "--version={{ params.version or '' }}"],
        returns="shards",
        doc_md="Fetch the champion and divide its users into shards.",
        **CPU.options(60),
    )
    shards = CommandOperator.partial(
        task_id="recommend_shard",
        module="tasks.recommendations.recommend_shard",
        doc_md="Compute strict lists for one shard's users; a finished shard is skipped.",
        arguments=[FOLDER],
        map_index_template="{{ task.mapped[-1] }}",
        **GPU.options(4 * 60),
    ).expand(mapped=plan.output.map(lambda shard: [f"--shard={shard}"]))
    publish = CommandOperator(
        task_id="publish_recommendations",
        module="tasks.recommendations.publish_recommendations",
        arguments=[FOLDER],
        doc_md="Check that every user occurs once, then make this version the current one.",
        **CPU.options(60),
    )
    plan >> shards >> publish
