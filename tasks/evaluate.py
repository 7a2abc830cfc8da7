"""Stage evaluate: one draft under every verification and K, for acceptance, speed, identity and ranking."""

from pathlib import Path
from typing import Annotated, Any

import typer

from atspeed_core.data.sequences import load_full_examples
from atspeed_core.evaluation.draft_figures import TestPart, count_draft, draft_result, time_draft, validation_histories
from atspeed_core.evaluation.lists import check_ks, choose_users, read_reference
from atspeed_core.evaluation.reference_times import ReferenceTimes
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Evaluate, Params
from atspeed_core.verifications import VERIFICATIONS
from tasks.machine_lock import machine_alone, machine_shared
from tasks.paths import DRAFTS, IDENTIFIERS, PLANS, PROCESSED, REFERENCE, RESULTS, TARGET
from tasks.stage import ParamsPath, Run, stage

Json = dict[str, Any]

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
        UserError: an input is missing or damaged, the reference lists or times are of other users or K, or a K is
            larger than the catalog.
    """
    settings, identifiers = params.evaluate, IDENTIFIERS / "identifiers.json"
    test = load_test_part(Catalog.load(identifiers), settings)
    recommender = Recommender.load(
        target=TARGET, draft=DRAFTS / method, identifiers=identifiers, decoding=params.decoding()
    )
    validation = validation_histories(recommender, load_full_examples(PROCESSED, "valid"), settings)
    with machine_shared():
        counted = count_draft(recommender, validation, test, settings)
    with machine_alone():
        timed = time_draft(recommender, validation, counted.errors, test, settings)
    result = {"method": method, **draft_result(recommender, counted, timed, test, settings)}
    timed.plan.save(PLANS / f"{method}.json")
    with replacing(RESULTS / "per_user" / f"{method}.parquet") as temporary:
        counted.per_user.to_parquet(temporary, index=False)
    write_json(RESULTS / f"{method}.json", result)
    return result


def load_test_part(catalog: Catalog, settings: Evaluate) -> TestPart:
    """Test users with the reference lists and times that evaluate_target wrote.

    Raises:
        UserError: see `evaluate`.
    """
    examples = load_full_examples(PROCESSED, "test")
    check_ks(settings.ks, catalog.trie.num_leaves, len(examples))
    users = [example.user for example in examples]
    timed = [users[number] for number in choose_users(len(users), settings.timing_users, settings.seed)]
    return TestPart(
        examples,
        read_reference(REFERENCE / "lists.parquet", users, settings.ks),
        ReferenceTimes.load(REFERENCE / "times.parquet", timed, settings.ks),
    )


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
