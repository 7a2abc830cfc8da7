"""What does not depend on a draft, timed once: no speculation, a draft that knows the answer, and generate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_parquet
from atspeed_core.files import replacing
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from atspeed_core.timing import FloatArray, load_average, time_interleaved

COLUMNS = ["user_id", "k", "alternative", "repetition", "seconds"]
NONE, ORACLE, GENERATE = "none", "oracle", "generate"
WARMUPS = 2
REPETITIONS = 3  # of every request: its ratios are medians, so that one slow moment does not count


@dataclass(frozen=True)
class ReferenceTimes:
    """Seconds of the alternatives that need no draft, for the users that every draft is timed on.

    Attributes:
        users: ids of the timing users.
        seconds: K -> "none", "oracle" and "generate" -> [users, repetitions] float64.
        load_average: K (as a string) -> of the machine when the timing of that K began; empty where read from a file.
    """

    users: list[str]
    seconds: dict[int, dict[str, FloatArray]]
    load_average: dict[str, float | None] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write user_id str, k int64, alternative str, repetition int64 and seconds float64, one row per run."""
        rows = [
            (user, k, name, repetition, seconds)
            for k, by_name in self.seconds.items()
            for name, times in by_name.items()
            for user, runs in zip(self.users, times.tolist(), strict=True)
            for repetition, seconds in enumerate(runs)
        ]
        with replacing(path) as temporary:
            pd.DataFrame(rows, columns=COLUMNS).to_parquet(temporary, index=False)

    @classmethod
    def load(cls, path: str | Path, users: Sequence[str], ks: Sequence[int]) -> "ReferenceTimes":
        """Read the times of `users` for every K in `ks`.

        Raises:
            UserError: the file is missing, damaged, of other users or without one of the K.
        """
        frame = read_stage_parquet(path, "evaluate_target")
        if set(frame["user_id"]) != set(users) or not set(ks) <= set(frame["k"]):
            raise UserError(f"{path}: other users or K than this evaluation has; run the evaluate_target stage again")
        seconds: dict[int, dict[str, FloatArray]] = {k: {} for k in ks}
        for k in ks:
            for name, rows in frame[frame["k"] == k].groupby("alternative", sort=False):
                by_user = rows.pivot(index="user_id", columns="repetition", values="seconds").loc[list(users)]
                seconds[k][str(name)] = by_user.to_numpy(dtype=np.float64)
        return cls(list(users), seconds)


def time_references(recommender: Recommender, users: Mapping[str, list[str]], ks: Sequence[int]) -> ReferenceTimes:
    """Time what needs no draft.

    Args:
        recommender: the target; no draft is looked at.
        users: id -> history of the timing users.
        ks: list lengths.
    """
    seconds, load = {}, {}
    for k in track(ks, "times without a draft"):
        load[str(k)] = load_average()
        requests = (alternatives(recommender, history, k) for history in users.values())
        seconds[k] = time_interleaved(requests, device=recommender.device, repetitions=REPETITIONS, warmups=WARMUPS)
    return ReferenceTimes(list(users), seconds, load)


def alternatives(recommender: Recommender, history: list[str], k: int) -> dict[str, Callable[[], object]]:
    """What can be timed of a request without a draft, by name."""
    return {
        NONE: partial(recommender.recommend, [history], k, verification=NONE),
        ORACLE: recommender.prepare_oracle([history], k),
        GENERATE: partial(recommender.generate, [history], k),
    }
