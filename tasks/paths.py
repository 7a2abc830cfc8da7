"""Where each stage reads and writes, relative to the project's folder."""

from pathlib import Path

CHAMPION = Path("data/champion")
PROCESSED = Path("data/processed")
IDENTIFIERS = Path("data/identifiers")
TARGET = Path("models/target")
DRAFTS = Path("models/drafts")
PLANS = Path("models/plans")
TOPK_CACHE = Path("data/topk_cache")
REFERENCE = Path("data/reference")
CHECKPOINTS = Path("checkpoints")  # outside every DVC out: DVC deletes outs before it runs a stage
RESULTS = Path("results")
PARAMS = Path("params.yaml")
NIGHT = Path("night.json")  # in the checkout of a night: its facts
