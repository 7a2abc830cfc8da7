"""The facts of a finished shard of lists: metadata of its file, by which a retry and the last step recognise it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.recommendations.plan_recommendations import LISTS, RecommendationPlan, shard_file

KEY = b"atspeed"  # in the file's metadata


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

    def as_metadata(self) -> dict[bytes, bytes]:
        """The metadata of the file."""
        return {KEY: json.dumps(asdict(self)).encode()}


def finished(folder: Path, plan: RecommendationPlan, shard: int) -> Facts | None:
    """The facts of a finished shard of `plan`; None: the shard is not finished, or of another plan."""
    try:
        metadata = pq.read_schema(shard_file(folder / LISTS, shard)).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    facts = Facts(**json.loads(metadata[KEY])) if KEY in metadata else None
    return facts if facts and facts.key == plan.key else None
