"""Stage evaluate: one draft under every verification and K, for acceptance, speed, identity and ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from atspeed_core.data.sequences import Example, load_full_examples
from atspeed_core.device import device_facts
from atspeed_core.evaluation.lists import (
    check_ks,
    choose_users,
    collect_lists,
    in_batches,
    lists_digest,
    read_reference,
    same_lists,
)
from atspeed_core.evaluation.measure import (
    PER_USER,
    list_figures,
    per_user_figures,
    published_figures,
    speed_figures,
    timed_requests,
)
from atspeed_core.evaluation.speed import BASELINE
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.planning import Errors, errors_by_k, make_plan, with_nodes
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Evaluate, Params
from atspeed_core.timing import FloatArray, time_interleaved
from atspeed_core.verifications import VERIFICATIONS
from tasks.paths import DRAFTS, IDENTIFIERS, PLANS, PROCESSED, REFERENCE, RESULTS, TARGET
from tasks.stage import ParamsPath, Run, stage

Json = dict[str, Any]

WARMUPS = 2
REPETITIONS = 1  # more users tell more than more runs of the same one
GENERATE_USERS = 6  # transformers' generate is slow; its latency over all timing users is in target.json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    method: Annotated[str, typer.Option(help="The method whose draft, models/drafts/METHOD, is evaluated.")],
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Plan how to decode on this device, measure a draft; write its plan, results/METHOD.json and per-user figures."""
    with stage("evaluate", params, method=method) as run:
        record(evaluate(method, run.params), run)


def evaluate(method: str, params: Params) -> Json:
    """Measure the draft of `method` in the project's folder; returns the content of results/METHOD.json.

    Raises:
        UserError: an input is missing or damaged, the reference lists are of other users or K, or a K is larger
            than the catalogue.
    """
    settings, identifiers = params.evaluate, IDENTIFIERS / "identifiers.json"
    examples = load_full_examples(PROCESSED, "test")
    check_ks(settings.ks, Catalog.load(identifiers).trie.num_leaves, len(examples))
    users = [example.user for example in examples]
    reference = read_reference(REFERENCE / "lists.parquet", users, settings.ks)
    recommender = load_recommender(method, identifiers, params)
    valid = validation_histories(recommender, settings)
    errors = errors_by_k(recommender, valid, settings.ks)
    fast = planned(recommender, valid, errors, settings)
    fast.plan.save(PLANS / f"{method}.json")
    figures, per_user = measure(recommender, fast, method, examples, reference, settings)
    result = {
        "method": method,
        "num_test_users": len(examples),
        "ks": settings.ks,
        "reference_sha256": lists_digest(reference),
        "device": device_facts(recommender.device, recommender.dtype),
        "draft": {"parameters": recommender.draft_parameters},
        "speedup_baseline": BASELINE,
        "timing": timing_facts(settings, len(examples)),
        "plan": [row.model_dump() for row in fast.plan.planned],
        "verifications": figures,
        "calls_by_nodes": calls_by_nodes(recommender, errors, examples, reference, settings),
    }
    with replacing(RESULTS / "per_user" / f"{method}.parquet") as temporary:
        per_user.to_parquet(temporary, index=False)
    write_json(RESULTS / f"{method}.json", result)
    return result


def load_recommender(method: str, identifiers: Path, params: Params) -> Recommender:
    """The target with the draft of `method`, decoding as `params` specify."""
    return Recommender.load(
        target=TARGET,
        draft=DRAFTS / method,
        identifiers=identifiers,
        decoding=params.decoding(),
    )


def validation_histories(recommender: Recommender, settings: Evaluate) -> list[list[str]]:
    """Histories of the validation users that plans are made from; those without a known item are left out."""
    examples = load_full_examples(PROCESSED, "valid")
    chosen = choose_users(len(examples), settings.plan.users, settings.seed)
    known = recommender.catalog.position
    histories = [examples[user].history for user in chosen]
    return [history for history in histories if any(item in known for item in history)]


def planned(recommender: Recommender, valid: list[list[str]], errors: Errors, settings: Evaluate) -> Recommender:
    """The recommender with a plan for this device, made on validation users."""
    plan = make_plan(
        recommender,
        valid,
        ks=settings.ks,
        batches=settings.plan.batches,
        prompt_percentiles=settings.plan.prompt_percentiles,
        repetitions=settings.plan.repetitions,
        errors=errors,
    )
    return replace(recommender, plan=plan)


def calls_by_nodes(
    recommender: Recommender,
    errors: Errors,
    examples: Sequence[Example],
    reference: Mapping[int, pd.DataFrame],
    settings: Evaluate,
) -> list[Json]:
    """Calls and nodes of strict lists where every request drafts a given number of nodes, a row a number and K.

    How they spread over the levels is chosen on validation users; no plan and no cost of the device enters.
    """
    plan = settings.calls_by_nodes
    users = choose_users(len(examples), plan.users or len(examples), settings.seed)
    chosen, rows = [examples[user] for user in users], []
    cells = [(k, nodes) for k in plan.ks if k in settings.ks and errors[k] is not None for nodes in plan.nodes]
    for k, nodes in track(cells, "calls against nodes"):
        drafting, expected = with_nodes(recommender, errors, k, nodes)
        lists = lists_at(drafting, chosen, k, "strict", settings)
        scored = lists["target_nodes"].to_numpy()
        rows.append(
            {
                "k": k,
                "drafted_nodes": nodes,
                "target_calls_expected": expected,
                "target_calls": float(lists["target_calls"].mean()),
                "target_nodes": float(scored.mean()),
                "target_nodes_p95": float(np.percentile(scored, 95)),
                "identical_lists": float(np.mean(same_lists(lists["items"], reference[k]["items"].iloc[users]))),
                "users": len(chosen),
            }
        )
    return rows


def measure(
    recommender: Recommender,
    fast: Recommender,
    method: str,
    examples: Sequence[Example],
    reference: Mapping[int, pd.DataFrame],
    settings: Evaluate,
) -> tuple[dict[str, dict[str, Json]], pd.DataFrame]:
    """Verification -> K -> figures, and one row a user, verification and K.

    Lists, accepted steps and calls are those of `recommender`, which drafts as many nodes on every device, so that they
    can be compared; times are those of `fast`, which decodes by its plan. Lists are compared with `reference`, or with
    the target's own samples of the same seed where the verification samples exactly.
    """
    offered = [name for name in settings.verifications if recommender.offers(name)]
    settings = settings.model_copy(update={"verifications": offered})
    figures: dict[str, dict[str, Json]] = {name: {} for name in offered}
    frames = []
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    for k in track(settings.ks, f"evaluate {method} at each K"):
        seconds = time_at(fast, examples, k, settings)
        for name in settings.verifications:
            lists, wanted = lists_at(recommender, examples, k, name, settings), reference[k]
            if VERIFICATIONS.get(name).compared_with == "target_samples":
                wanted = lists_at(recommender.without_speculation(), examples, k, name, settings)
            frames.append(per_user_figures(examples, lists, wanted, k, name))
            figures[name][str(k)] = {
                **list_figures(frames[-1], lists, wanted, **options),
                **speed_figures(seconds, name, **options),
            }
        also_published = [name for name in offered if VERIFICATIONS.get(name).also_as_published]
        if also_published and recommender.drafts_in_rounds:
            published = published_lists_at(recommender, examples, k, settings)
            for name in also_published:
                figures[name][str(k)] |= published_figures(published, **options)
    return figures, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=PER_USER)


def lists_at(
    recommender: Recommender, examples: Sequence[Example], k: int, verification: str, settings: Evaluate
) -> pd.DataFrame:
    """Lists of all test users, batch by batch; each batch has its own seed."""
    return collect_lists(
        lambda histories, first: recommender.recommend(
            histories, k, verification=verification, seed=settings.seed + first
        ),
        in_batches([example.history for example in examples], settings.batch_size),
    )


def published_lists_at(
    recommender: Recommender, examples: Sequence[Example], k: int, settings: Evaluate
) -> pd.DataFrame:
    """Lists of `published_users` test users by the published scheme, batch by batch."""
    users = choose_users(len(examples), settings.published_users or len(examples), settings.seed)
    return collect_lists(
        lambda histories, _: recommender.search_as_published(histories, k),
        in_batches([examples[user].history for user in users], settings.batch_size),
    )


def time_at(recommender: Recommender, examples: Sequence[Example], k: int, settings: Evaluate) -> dict[str, FloatArray]:
    """Seconds of the alternatives on the timing users, [users, repetitions]."""
    chosen = choose_users(len(examples), settings.timing_users, settings.seed)
    requests = timed_requests(
        recommender,
        [examples[user].history for user in chosen],
        k,
        settings.verifications,
        num_generate=GENERATE_USERS,
        seed=settings.seed,
    )
    return time_interleaved(requests, device=recommender.device, repetitions=REPETITIONS, warmups=WARMUPS)


def timing_facts(settings: Evaluate, num_users: int) -> Json:
    """How the times were taken."""
    users = min(settings.timing_users, num_users)
    return {"users": users, "generate_users": min(GENERATE_USERS, users), "repetitions": REPETITIONS}


def record(result: Json, run: Run) -> None:
    """Log to MLflow: metrics with step = K and flat ones such as recall/at_10.

    Figures of the primary verification have no prefix.
    """
    run.log_param("num_test_users", result["num_test_users"])
    run.log_param("draft_parameters", result["draft"]["parameters"])
    for verification, by_k in result["verifications"].items():
        prefix = "" if VERIFICATIONS.get(verification).primary else f"{verification}/"
        for k, figures in by_k.items():
            for name in (name for name, value in figures.items() if isinstance(value, float)):
                run.metric(f"{prefix}{name}", figures[name], step=int(k))
                run.metric(f"{prefix}{name}/at_{k}", figures[name])
    run.artifact(RESULTS / f"{result['method']}.json")


if __name__ == "__main__":
    app()
