"""The results of all methods together: checked for agreement, compared pairwise, arranged as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_json, read_stage_parquet, rows_by_k
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.metrics import of_decoding, of_lists

Json = dict[str, Any]

TARGET = "target"
REFERENCE_METHOD = "sft"  # the draft that the aligned ones are compared with
SHARED = ("num_test_users", "ks", "reference_sha256")  # results in one table must agree on these


@dataclass(frozen=True)
class Results:
    """What the evaluation stages wrote.

    Attributes:
        target: results/target.json.
        methods: method -> results/METHOD.json.
        per_user: method or "target" -> results/per_user/NAME.parquet.
    """

    target: Json
    methods: dict[str, Json]
    per_user: dict[str, pd.DataFrame]


def load_results(folder: str | Path, methods: Sequence[str]) -> Results:
    """Read the results of the target and of those of `methods` that were evaluated.

    Raises:
        UserError: no results of the target or of any method, a damaged file, or files that were not measured on
            the same test users, K and reference lists.
    """
    folder = Path(folder)
    target = read_stage_json(folder / f"{TARGET}.json", "evaluate_target")
    evaluated = [method for method in methods if (folder / f"{method}.json").exists()]
    if not evaluated:
        raise UserError(f"{folder}: no results of any method; run the evaluate stage first (--method {methods[0]})")
    results = {method: read_stage_json(folder / f"{method}.json", f"evaluate@{method}") for method in evaluated}
    for method, result in results.items():
        check_agreement(folder / f"{method}.json", result, target)
    stages = {TARGET: "evaluate_target", **{method: f"evaluate@{method}" for method in evaluated}}
    files = folder / "per_user"
    per_user = {name: read_stage_parquet(files / f"{name}.parquet", stage) for name, stage in stages.items()}
    return Results(target, results, per_user)


def check_agreement(path: Path, result: Json, target: Json) -> None:
    """Refuse a method's results that were not measured against the same target.

    Raises:
        UserError: they differ in number of test users, K or reference lists.
    """
    for name in SHARED:
        if result.get(name) != target.get(name):
            raise UserError(
                f"{path}: {name} is {result.get(name)}, but {target.get(name)} in target.json; "
                "run the evaluate_target and evaluate stages again"
            )


def combine(dataset: Json, results: Results, *, samples: int, seed: int) -> Json:
    """The content of results/metrics.json."""
    first = next(iter(results.methods.values()))
    return {
        "dataset": dataset,
        "device": results.target["device"],
        "num_test_users": results.target["num_test_users"],
        "speedup_baseline": first["speedup_baseline"],
        "timing": {
            **first["timing"],
            "load_average": {
                name: result["timing"]["load_average"]
                for name, result in {TARGET: results.target, **results.methods}.items()
            },
        },
        "target": results.target[TARGET],
        "baselines": results.target["baselines"],
        "methods": {method: result["verifications"] for method, result in results.methods.items()},
        "drafts": {method: result["draft"] for method, result in results.methods.items()},
        "plans": {method: choices_for_single_requests(result["plan"]) for method, result in results.methods.items()},
        "calls_by_nodes": {method: result["calls_by_nodes"] for method, result in results.methods.items()},
        "comparisons": {
            **_ranking_comparisons(results.per_user[TARGET], samples, seed),
            **_draft_comparisons(results.per_user, samples, seed),
        },
    }


def choices_for_single_requests(plan: Sequence[Json]) -> dict[str, list[str]]:
    """K -> how the plan decodes single requests, by length of the prompt: none, trie or draft."""
    choices: dict[str, list[str]] = {}
    for row in plan:
        if row["batch"] == 1:
            choices.setdefault(str(row["k"]), []).append(row["choice"]["speculation"])
    return choices


def paired_difference(
    ours: pd.DataFrame, theirs: pd.DataFrame, names: Sequence[str], *, samples: int, seed: int
) -> Json:
    """Mean of ours - theirs over the same users, with its 95% interval, for each of the named columns.

    Both frames contain one row per user, in any order.

    Raises:
        UserError: the users differ.
    """
    ours, theirs = ours.set_index("user_id"), theirs.set_index("user_id")
    if set(ours.index) != set(theirs.index):
        raise UserError(
            "results/per_user: methods that are compared have different users; run the evaluate stages again"
        )
    difference = ours[list(names)].astype(np.float64) - theirs.loc[ours.index, list(names)].astype(np.float64)
    return mean_figures(difference, names, samples=samples, seed=seed)


def series_by_method(metrics: Json, name: str) -> dict[str, dict[int, float]]:
    """A figure of every method: METHOD_VERIFICATION -> {K: figure}."""
    return {
        f"{method}_{verification}": {int(k): figures[name] for k, figures in by_k.items() if name in figures}
        for method, verifications in metrics["methods"].items()
        for verification, by_k in verifications.items()
    }


def series_by_recommender(metrics: Json, name: str) -> dict[str, dict[int, float]]:
    """A figure of the target and the baselines: NAME_RECOMMENDER -> {K: figure}."""
    recommenders = {TARGET: metrics[TARGET], **metrics["baselines"]}
    return {
        f"{name}_{recommender}": {int(k): figures[name] for k, figures in rows_by_k(by_k) if name in figures}
        for recommender, by_k in recommenders.items()
    }


def plot_tables(metrics: Json) -> dict[str, pd.DataFrame]:
    """File name -> one row per K, one column per line of the plot."""
    oracle = {
        f"{method}_oracle": {int(k): figures["walltime_speedup_oracle"] for k, figures in by_k.items()}
        for method, verifications in metrics["methods"].items()
        for by_k in list(verifications.values())[:1]  # the oracle's search does not depend on the verification
    }
    ranking: dict[str, dict[int, float]] = {}
    for metric in of_lists():
        ranking |= series_by_recommender(metrics, metric.name) if metric.compared else {}
    tables: dict[str, dict[str, dict[int, float]]] = {
        **{metric.name: series_by_method(metrics, metric.name) for metric in of_decoding() if metric.compared},
        "walltime_speedup": {**series_by_method(metrics, "walltime_speedup"), **oracle},
        "ranking": ranking,
    }
    return {name: pd.DataFrame(columns).rename_axis("k").sort_index() for name, columns in tables.items()}


def _ranking_comparisons(target: pd.DataFrame, samples: int, seed: int) -> Json:
    comparisons: Json = {}
    names = [metric.name for metric in of_lists() if metric.compared and metric.name in target]
    for name in dict.fromkeys(target["recommender"]):
        if name != TARGET:
            comparisons[f"{TARGET} - {name}"] = {
                str(k): paired_difference(
                    _rows(target, recommender=TARGET, k=k),
                    _rows(target, recommender=name, k=k),
                    names,
                    samples=samples,
                    seed=seed,
                )
                for k in dict.fromkeys(target["k"])
            }
    return comparisons


def _draft_comparisons(per_user: Mapping[str, pd.DataFrame], samples: int, seed: int) -> Json:
    if REFERENCE_METHOD not in per_user:
        return {}
    base = per_user[REFERENCE_METHOD]
    offered = set(base["verification"])
    names = [metric.name for metric in of_decoding() if metric.compared and metric.name in base]
    return {
        f"{method} - {REFERENCE_METHOD}": {
            verification: {
                str(k): paired_difference(
                    _rows(frame, verification=verification, k=k),
                    _rows(base, verification=verification, k=k),
                    names,
                    samples=samples,
                    seed=seed,
                )
                for k in dict.fromkeys(frame["k"])
            }
            for verification in dict.fromkeys(frame["verification"])
            if verification in offered
        }
        for method, frame in per_user.items()
        if method not in (TARGET, REFERENCE_METHOD)
    }


def _rows(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame
