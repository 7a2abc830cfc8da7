"""The first step of batch_recommend: fetches the model and splits its users into shards.

It writes, in recommendations/DATASET/vVERSION/ of ATSPEED_HOME:

    plan.json                       `RecommendationPlan`, with the folder of the fetched model
    histories/shard-00000.parquet   user_id str, item_ids list<str>, oldest first

recommend_shard adds lists/shard-00000.parquet; publish_recommendations adds manifest.json and the link `current`.
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pydantic import BaseModel, ConfigDict

from atspeed_core.data.histories import load_histories
from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.validation import read_model
from tasks.deployment.model_registry import (
    CHAMPION,
    COMMIT,
    METHOD,
    RECOMMENDER,
    recommender_version,
    registered_name,
    version_of,
)
from tasks.deployment.weights import decoding, fetch_for_deployment
from tasks.deployment.workflow import answer, command
from tasks.environment import Deployment
from tasks.mlflow_store import mlflow_client
from tasks.paths import PARAMS
from tasks.presets import Batch, load_preset

if TYPE_CHECKING:  # takes seconds to import
    from mlflow.entities.model_registry import ModelVersion

PLAN = Path("plan.json")
HISTORIES = Path("histories")
LISTS = Path("lists")
MANIFEST = Path("manifest.json")
HISTORY_LAYOUT = pa.schema([("user_id", pa.string()), ("item_ids", pa.list_(pa.string()))])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class RecommendationPlan(BaseModel):
    """The lists to compute: for every user, by one model.

    Attributes:
        dataset: of the users.
        version: of the registered recommender.
        commit: git commit that contains it.
        method: of its draft.
        model: folder of the fetched model.
        k: list length.
        batch_size: users decoded at once.
        users_per_shard: number of users per shard; the last one has fewer.
        users: number of users.
        shards: numbers of the shards.
        key: equal keys mean equal lists; a finished shard with another key is not used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    version: str
    commit: str
    method: str
    model: Path
    k: int
    batch_size: int
    users_per_shard: int
    users: int
    shards: list[int]
    key: str


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="A preset of presets/; its model is atspeed-DATASET-recommender.")],
    version: Annotated[str | None, typer.Option(help="Version of the registered model; default: the champion.")] = None,
) -> None:
    """Plan the lists of every user; a second call for the same model changes nothing."""
    with command("plan_recommendations"):
        batch = load_preset(dataset).nightly.batch
        model = model_version(dataset, version)
        folder = Deployment.from_environment().recommendations(dataset) / f"v{model.version}"
        plan = make_plan(folder, dataset, model, batch)
        answer({"folder": str(folder), "shards": plan.shards, "version": plan.version})


def make_plan(folder: Path, dataset: str, model: "ModelVersion", batch: Batch) -> RecommendationPlan:
    """Fetch the model into `folder`, write the shards of histories and, last, plan.json.

    Raises:
        UserError: the model's data or settings do not allow lists of this length.
    """
    commit, method = model.tags[COMMIT], model.tags[METHOD]
    fetched = fetch_for_deployment(commit, method, with_data=True)
    check_k(batch.k, fetched)
    histories = load_histories(fetched / "processed")
    size = batch.users_per_shard
    facts = {"dataset": dataset, "version": str(model.version), "commit": commit, "method": method, "k": batch.k}
    facts |= {"users_per_shard": size, "users": len(histories)}
    key = plan_key(facts)
    clear_other_plans(folder, key)
    shards = write_shards(folder, histories, size)
    plan = RecommendationPlan.model_validate(
        {**facts, "model": fetched, "batch_size": batch.batch_size, "shards": shards, "key": key}
    )
    write_json(folder / PLAN, plan.model_dump(mode="json"))
    return plan


def model_version(dataset: str, version: str | None) -> "ModelVersion":
    """A version of the data set's recommender; None: the champion.

    Raises:
        UserError: the registry has no such version, or no champion yet.
        TemporaryError: MLflow does not answer.
    """
    with mlflow_client() as client:
        name = registered_name(dataset, RECOMMENDER)
        version = version or version_of(client, name, CHAMPION)
        if version is None:
            raise UserError(f"{name} has no champion yet; promote a version first, or give --version")
        return recommender_version(client, dataset, version)


def check_k(k: int, model: Path) -> None:
    """Check K before any shard runs, since every shard would refuse it.

    Raises:
        UserError: the lists would be longer than the catalog, or than the number of draft beams.
    """
    identifiers = Catalog.load(model / "identifiers" / "identifiers.json").trie.num_leaves
    beams = decoding(model / PARAMS).draft_beams
    if k > min(identifiers, beams):
        raise UserError(
            f"nightly.batch.k = {k}: at most {min(identifiers, beams)} here ({identifiers} identifiers in the "
            f"catalog, evaluate.draft_beams = {beams}); lower k in the preset"
        )


def plan_key(facts: dict[str, Any]) -> str:
    """A hash (16 hexadecimal digits) of everything that determines the lists."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def clear_other_plans(folder: Path, key: str) -> None:
    """Remove the lists of an earlier plan for the same model, from before k or the shard size of the preset changed."""
    if (folder / PLAN).exists() and load_plan(folder).key != key:
        (folder / MANIFEST).unlink(missing_ok=True)
        for part in (LISTS, HISTORIES):
            shutil.rmtree(folder / part, ignore_errors=True)


def write_shards(folder: Path, histories: dict[str, list[str]], size: int) -> list[int]:
    """Write the histories in order, `size` users per file; returns the numbers of the shards."""
    users = list(histories)
    shards = [users[first : first + size] for first in range(0, len(users), size)]
    for number, shard in enumerate(shards):
        columns = {"user_id": shard, "item_ids": [histories[user] for user in shard]}
        with replacing(shard_file(folder / HISTORIES, number)) as temporary:
            pq.write_table(pa.table(columns, schema=HISTORY_LAYOUT), temporary, compression="zstd")
    return list(range(len(shards)))


def read_shard(folder: Path, number: int) -> dict[str, list[str]]:
    """User id -> history of the users of a shard."""
    frame = pd.read_parquet(shard_file(folder / HISTORIES, number))
    return {user: list(items) for user, items in zip(frame["user_id"], frame["item_ids"], strict=True)}


def shard_file(folder: Path, number: int) -> Path:
    """The file of a shard in `folder`."""
    return folder / f"shard-{number:05d}.parquet"


def load_plan(folder: Path) -> RecommendationPlan:
    """Read plan.json of `folder`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_model(
        folder / PLAN,
        RecommendationPlan,
        if_missing="run plan_recommendations first",
        if_damaged=f"remove {folder} and plan again",
    )


if __name__ == "__main__":
    app()
