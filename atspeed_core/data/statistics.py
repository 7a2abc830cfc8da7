"""The content of stats.json: figures of a prepared data set."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from atspeed_core.data.splitting import PARTS
from atspeed_core.settings import PrepareData


@dataclass
class Steps:
    """Users, items and interactions that remain after each step, in order."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: str, interactions: pd.DataFrame) -> None:
        """Record what remains after `step`."""
        self.rows.append({"step": step, **counts(interactions)})

    def summary(self) -> str:
        """E.g. "read: 100004, rating >= 4: 51568"."""
        return ", ".join(f"{row['step']}: {row['interactions']}" for row in self.rows)


def counts(interactions: pd.DataFrame) -> dict[str, int]:
    """Numbers of users, items and interactions."""
    users, items = interactions["user_id"].nunique(), interactions["item_id"].nunique()
    return {"users": users, "items": items, "interactions": len(interactions)}


def statistics(parted: pd.DataFrame, settings: PrepareData, steps: Steps) -> dict[str, Any]:
    """Figures of split interactions; times in ISO 8601 (UTC), null if the source has none."""
    total = counts(parted)
    return {
        "dataset": settings.dataset,
        "source": settings.source,
        "split": settings.split,
        **total,
        "density": total["interactions"] / (total["users"] * total["items"]),
        "steps": steps.rows,
        "parts": {part: part_statistics(parted, part) for part in PARTS},
    }


def part_statistics(parted: pd.DataFrame, part: str) -> dict[str, Any]:
    """Counts and time range of one part; for valid and test also those whose items are not in training (cold)."""
    own = parted[parted["part"] == part]
    figures: dict[str, Any] = {**counts(own), "time_range": time_range(own)}
    if part != "train":
        cold = own[~own["item_id"].isin(parted.loc[parted["part"] == "train", "item_id"])]
        figures |= {"cold_items": cold["item_id"].nunique(), "cold_interactions": len(cold)}
    return figures


def time_range(interactions: pd.DataFrame) -> list[str] | None:
    """First and last time, ISO 8601 in UTC; None if times are unknown."""
    if "timestamp" not in interactions or interactions.empty:
        return None
    ends = interactions["timestamp"].agg(["min", "max"])
    return [datetime.fromtimestamp(int(end), UTC).isoformat() for end in ends]
