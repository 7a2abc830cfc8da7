"""The second step of batch_recommend, once per shard of users: strict top-K lists in lists/shard-00000.parquet.

The file is written atomically, and its metadata identify the plan that it belongs to. So a finished shard is not
computed again.
"""

import logging
import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from atspeed_core.errors import UserError
from atspeed_core.evaluation.lists import in_batches
from atspeed_core.files import replacing
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from tasks.deployment.weights import load_recommender
from tasks.deployment.workflow import answer, command
from tasks.recommendations.plan_recommendations import LISTS, RecommendationPlan, load_plan, read_shard, shard_file
from tasks.recommendations.shard_facts import Facts, finished

LAYOUT = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float64())])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main(
    folder: Annotated[Path, typer.Option(help="The folder that plan_recommendations answered.")],
    shard: Annotated[int, typer.Option(help="Number of the shard.")],
) -> None:
    """Write the lists of a shard's users; a finished shard is not changed."""
    with command("recommend_shard"):
        plan = load_plan(folder)
        if shard not in plan.shards:
            raise UserError(f"--shard {shard}: the plan has {len(plan.shards)} shards, 0 to {len(plan.shards) - 1}")
        facts = finished(folder, plan, shard)
        if facts:
            log.info("shard %d is finished already", shard)
        answer((facts or recommend_shard(folder, plan, shard)).summary())


def recommend_shard(folder: Path, plan: RecommendationPlan, shard: int) -> Facts:
    """Compute and write the lists of a shard."""
    histories = read_shard(folder, shard)
    recommender = load_recommender(plan.model)
    started = time.perf_counter()
    rows = lists(recommender, histories, plan, f"shard {shard}")
    seconds = time.perf_counter() - started
    listed = {user for user, *_ in rows}
    facts = Facts(plan.key, len(histories), [user for user in histories if user not in listed], seconds)
    write_lists(shard_file(folder / LISTS, shard), rows, facts)
    log.info("shard %d: %d users, %s users/s", shard, len(histories), facts.summary()["users_per_second"])
    return facts


def lists(
    recommender: Recommender, histories: dict[str, list[str]], plan: RecommendationPlan, description: str
) -> list[tuple[str, int, str, float]]:
    """(user, rank from 1, item, score) of all lists, in the order of the users, best item first.

    A user without an item in the catalog is left out, since a batch with such a history is an error.
    """
    users = [user for user, history in histories.items() if recommender.encoder.known(history)]
    rows = []
    batches = in_batches([histories[user] for user in users], plan.batch_size)
    for first, batch in track(batches, description):
        recommended = recommender.recommend(batch, plan.k, verification="strict")
        for user, items, scores in zip(users[first:], recommended.items, recommended.scores, strict=False):
            pairs = zip(items, scores, strict=True)
            rows += [(user, rank, item, score) for rank, (item, score) in enumerate(pairs, start=1)]
    return rows


def write_lists(path: Path, rows: list[tuple[str, int, str, float]], facts: Facts) -> None:
    """Write the lists with their facts, atomically."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    layout = LAYOUT.with_metadata(facts.as_metadata())
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=layout), temporary, compression="zstd")


if __name__ == "__main__":
    app()
