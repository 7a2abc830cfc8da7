"""The second step of batch_recommend, once per shard of users: strict top-K lists in lists/shard-00000.parquet.

The file is written atomically, and its metadata identify the plan that it belongs to. So a finished shard is not
computed again.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

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
from tasks.recommendations.plan_recommendations import LISTS, Plan, load_plan, read_shard, shard_file

LAYOUT = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float64())])
FACTS = b"atspeed"  # key in the file's metadata

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """The metadata of a finished shard.

    Attributes:
        key: of the plan.
        users: number of users in the shard.
        without_list: users without a list: the catalog contains none of their items, or they had all of them.
        seconds: spent on the lists, without loading the models.
    """

    key: str
    users: int
    without_list: list[str]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The answer of the command."""
        return {
            "users": self.users,
            "seconds": round(self.seconds, 3),
            "users_per_second": round(self.users / self.seconds, 2) if self.seconds else 0.0,
        }


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


def finished(folder: Path, plan: Plan, shard: int) -> Facts | None:
    """The facts of a finished shard of `plan`; None: the shard is not finished, or of another plan."""
    try:
        metadata = pq.read_schema(shard_file(folder / LISTS, shard)).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    facts = Facts(**json.loads(metadata[FACTS])) if FACTS in metadata else None
    return facts if facts and facts.key == plan.key else None


def recommend_shard(folder: Path, plan: Plan, shard: int) -> Facts:
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
    recommender: Recommender, histories: dict[str, list[str]], plan: Plan, description: str
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
    layout = LAYOUT.with_metadata({FACTS: json.dumps(asdict(facts)).encode()})
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=layout), temporary, compression="zstd")


if __name__ == "__main__":
    app()
