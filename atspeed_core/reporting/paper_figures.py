"""What the paper reports (AtSpeed, arXiv 2410.05165, tables 1 to 3): by verification, data set, method and K."""

from collections.abc import Mapping
from dataclasses import dataclass

Figures = Mapping[int, float]

KS = (3, 5, 10, 20)  # of the tables that are known here
DEVICE = "a LLaMA-7B on one GPU of 24 GB"


@dataclass(frozen=True)
class Published:
    """One row of the paper: K -> figure, where it is known.

    Attributes:
        speedup: WS, walltime speedup over the target's own beam search.
        accepted: AS, accepted steps.
    """

    speedup: Figures
    accepted: Figures


def _row(speedup: str, accepted: str) -> Published:
    """Figures for `KS`, separated by blanks; "-" where a figure is not known."""
    both = [{k: float(v) for k, v in zip(KS, text.split(), strict=True) if v != "-"} for text in (speedup, accepted)]
    return Published(*both)


STRICT: dict[str, dict[str, Published]] = {
    "beauty": {
        "dare": _row("1.07 1.06 1.15 1.48", "0.44 0.26 0.05 0.00"),
        "sft": _row("- 1.43 1.37 1.55", "- 1.32 0.66 0.09"),
        "wordkd": _row("- 1.58 1.52 1.58", "- 1.60 1.03 0.16"),
        "tvdkd": _row("- 1.44 1.37 1.57", "- 1.31 0.65 0.09"),
        "seqkd": _row("- 1.75 1.67 1.68", "- 1.85 1.27 0.30"),
        "atspeed_s": _row("1.97 1.84 1.87 1.84", "2.20 2.00 1.64 0.57"),
        "atspeed_r": _row("- 1.70 1.71 1.74", "- 1.82 1.33 0.43"),
    },
    "games": {
        "dare": _row("0.95 0.99 1.13 1.44", "0 0 0 0"),
        "sft": _row("- 1.43 1.40 1.58", "1.49 1.32 0.91 -"),
        "seqkd": _row("- 1.60 1.46 1.77", "1.95 1.67 1.05 -"),
        "atspeed_s": _row("1.77 1.78 1.85 1.76", "2.02 1.96 1.69 0.68"),
    },
    "ml-1m": {
        "sft": _row("1.65 1.35 1.48 1.76", "1.99 1.26 1.14 1.03"),
        "atspeed_s": _row("1.86 1.79 1.80 1.75", "2.08 2.03 1.98 1.09"),
    },
    "goodreads": {
        "sft": _row("1.83 1.81 2.17 2.46", "2.04 1.98 1.72 1.07"),
        "atspeed_s": _row("2.25 2.26 2.20 2.48", "2.32 2.18 1.81 1.08"),
    },
}
RELAXED: dict[str, dict[str, Published]] = {
    "beauty": {"atspeed_r": _row("1.94 1.94 2.16 2.47", "2.19 2.13 2.01 1.77")},
    "games": {"atspeed_r": _row("1.92 2.00 2.05 2.20", "2.18 2.17 1.98 1.35")},
    "ml-1m": {"atspeed_r": _row("2.24 2.22 2.14 1.64", "- - - -")},
    "goodreads": {"atspeed_r": _row("2.45 2.39 1.77 2.36", "- - - -")},
}
PUBLISHED = {"strict": STRICT, "relaxed": RELAXED}
METHODS = {method for by_dataset in PUBLISHED.values() for rows in by_dataset.values() for method in rows}
RANKING: dict[str, dict[str, Figures]] = {
    "beauty": {"recall": {5: 0.0056, 10: 0.0098}, "ndcg": {5: 0.0051, 10: 0.0066}},
    "games": {"recall": {5: 0.0074, 10: 0.0125}, "ndcg": {5: 0.0065, 10: 0.0083}},
}


def published(verification: str, dataset: str, method: str, k: int, figure: str) -> float | None:
    """AS or WS of a cell of the paper; None where it is not known."""
    row = PUBLISHED.get(verification, {}).get(dataset, {}).get(method)
    return (row.accepted if figure == "AS" else row.speedup).get(k) if row else None
