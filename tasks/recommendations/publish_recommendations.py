"""batch_recommend, last step: check that every user is there once, then make this version the current one.

recommendations/DATASET/current is a link to the folder of one version and changes in one step, so who reads there
sees the lists of one model, whole.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from tasks.deployment.command import answer, command
from tasks.mlflow_store import experiment, find_or_create_run
from tasks.recommendations.plan_recommendations import LISTS, MANIFEST, Plan, load_plan, read_shard, shard_file
from tasks.recommendations.recommend_shard import Facts, finished
from tasks.tracking import KEY

CURRENT = "current"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(folder: Annotated[Path, typer.Option(help="The folder that plan_recommendations answered.")]) -> None:
    """Check all shards, write manifest.json, move the link `current` and tell MLflow."""
    with command("publish_recommendations"):
        plan = load_plan(folder)
        figures = summary([checked(folder, plan, shard) for shard in plan.shards])
        publish(folder, plan, figures)
        tell_mlflow(plan, figures)
        answer({"users": figures["users"], "users_per_second": figures["users_per_second"]})


def checked(folder: Path, plan: Plan, shard: int) -> Facts:
    """The facts of a shard whose file holds one list, ranks 1 to at most K, for every user of the shard.

    Raises:
        UserError: the shard is missing, of another plan or not complete.
    """
    path = shard_file(folder / LISTS, shard)
    again = f"run recommend_shard --folder {folder} --shard {shard}"
    facts = finished(folder, plan, shard)
    if facts is None:
        raise UserError(f"{path}: missing, damaged or of another plan; {again}")
    fault = first_fault(pd.read_parquet(path), list(read_shard(folder, shard)), facts, plan.k)
    if fault:
        raise UserError(f"{path}: {fault}; remove the file and {again}")
    return facts


def first_fault(lists: pd.DataFrame, users: list[str], facts: Facts, k: int) -> str | None:
    """What is wrong with the lists of a shard, or None.

    Args:
        lists: user_id, rank, item_id.
        users: of the shard.
        facts: that came with the lists.
        k: list length asked for.
    """
    sizes = Counter(lists["user_id"])
    wrong = Counter([*sizes, *facts.without_list])
    wrong.subtract(users)
    if stray := [user for user, times in wrong.items() if times]:
        return f"user '{stray[0]}' has no list, two lists or is none of this shard ({len(stray)} such users)"
    if (lists["rank"] != lists.groupby("user_id").cumcount() + 1).any() or (lists["rank"] > k).any():
        return f"ranks do not run from 1 to at most {k}"
    if lists.duplicated(["user_id", "item_id"]).any():
        return "an item is recommended twice to one user"
    return None


def summary(shards: list[Facts]) -> dict[str, Any]:
    """users, users without a list, seconds of all shards together, and users a second of one worker."""
    users, seconds = sum(facts.users for facts in shards), sum(facts.seconds for facts in shards)
    return {
        "users": users,
        "users_without_list": sum(len(facts.without_list) for facts in shards),
        "seconds": round(seconds, 3),
        "users_per_second": round(users / seconds, 2) if seconds else 0.0,
    }


def publish(folder: Path, plan: Plan, figures: dict[str, Any]) -> None:
    """Write manifest.json, then let `current` point to `folder`."""
    files = [str(shard_file(LISTS, shard)) for shard in plan.shards]
    made = {"published": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    write_json(folder / MANIFEST, {**plan.model_dump(mode="json", exclude={"shards", "model"}), **figures, **made})
    with replacing(folder.parent / CURRENT) as temporary:
        temporary.symlink_to(folder.name)


def tell_mlflow(plan: Plan, figures: dict[str, Any]) -> None:
    """Record the figures in a run of their own, once a plan."""
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
