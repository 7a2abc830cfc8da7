"""The last step of batch_recommend: checks that every user occurs once, then makes this version the current one.

recommendations/DATASET/current is a link to the folder of one version and changes atomically. So a reader always sees
the complete lists of one model.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from tasks.deployment.workflow import answer, command
from tasks.mlflow_store import experiment, find_or_create_run
from tasks.recommendations.plan_recommendations import (
    LISTS,
    MANIFEST,
    RecommendationPlan,
    load_plan,
    read_shard,
    shard_file,
)
from tasks.recommendations.shard_facts import Facts, finished
from tasks.tracking import KEY

CURRENT = "current"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(folder: Annotated[Path, typer.Option(help="The folder in the answer of plan_recommendations.")]) -> None:
    """Check all shards, write manifest.json, move the link `current` and log the figures to MLflow."""
    with command("publish_recommendations"):
        plan = load_plan(folder)
        figures = summary([checked(folder, plan, shard) for shard in plan.shards])
        publish(folder, plan, figures)
        log_to_mlflow(plan, figures)
        answer({"users": figures["users"], "users_per_second": figures["users_per_second"]})


def checked(folder: Path, plan: RecommendationPlan, shard: int) -> Facts:
    """The facts of a shard, once its file is known to have one list, ranks 1 to at most K, per user.

    Raises:
        UserError: the shard is missing, incomplete or of another plan.
    """
    path = shard_file(folder / LISTS, shard)
    remedy = f"run recommend_shard --folder {folder} --shard {shard}"
    facts = finished(folder, plan, shard)
    if facts is None:
        raise UserError(f"{path}: missing, damaged or of another plan; {remedy}")
    fault = first_fault(pd.read_parquet(path), list(read_shard(folder, shard)), facts, plan.k)
    if fault:
        raise UserError(f"{path}: {fault}; remove the file and {remedy}")
    return facts


def first_fault(lists: pd.DataFrame, users: list[str], facts: Facts, k: int) -> str | None:
    """The first fault in the lists of a shard; None: there is none.

    Args:
        lists: user_id, rank, item_id.
        users: of the shard.
        facts: of the shard.
        k: requested list length.
    """
    sizes = Counter(lists["user_id"])
    excess = Counter([*sizes, *facts.without_list])
    excess.subtract(users)
    if wrong := [user for user, times in excess.items() if times]:
        return f"user '{wrong[0]}' has no list, two lists or does not belong to this shard ({len(wrong)} such users)"
    if (lists["rank"] != lists.groupby("user_id").cumcount() + 1).any() or (lists["rank"] > k).any():
        return f"ranks do not run from 1 to at most {k}"
    if lists.duplicated(["user_id", "item_id"]).any():
        return "an item is recommended twice to one user"
    return None


def summary(shards: list[Facts]) -> dict[str, Any]:
    """Number of users, of users without a list, seconds of all shards together, and users per second of one worker."""
    users, seconds = sum(facts.users for facts in shards), sum(facts.seconds for facts in shards)
    return {
        "users": users,
        "users_without_list": sum(len(facts.without_list) for facts in shards),
        "seconds": round(seconds, 3),
        "users_per_second": round(users / seconds, 2) if seconds else 0.0,
    }


def publish(folder: Path, plan: RecommendationPlan, figures: dict[str, Any]) -> None:
    """Write manifest.json, then let `current` point to `folder`."""
    files = [str(shard_file(LISTS, shard)) for shard in plan.shards]
    publication = {"published": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    write_json(
        folder / MANIFEST, {**plan.model_dump(mode="json", exclude={"shards", "model"}), **figures, **publication}
    )
    with replacing(folder.parent / CURRENT) as temporary:
        temporary.symlink_to(folder.name)


def log_to_mlflow(plan: RecommendationPlan, figures: dict[str, Any]) -> None:
    """Log the figures in a run of their own, once per plan."""
    tags = {"dataset": plan.dataset, "atspeed.version": plan.version, "atspeed.commit": plan.commit}
    with experiment() as (client, experiment_id):
        name = f"batch {plan.dataset} v{plan.version}"
        run = find_or_create_run(client, experiment_id, name, (KEY, f"batch-{plan.key}"), tags)
        if run.info.status == "FINISHED":
            return
        for param in ("k", "method", "batch_size", "users_per_shard"):
            client.log_param(run.info.run_id, param, getattr(plan, param))
        for metric, value in figures.items():
            client.log_metric(run.info.run_id, metric, value)
        client.set_terminated(run.info.run_id)


if __name__ == "__main__":
    app()
