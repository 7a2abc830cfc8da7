"""Stage evaluate_target: lists and times that need no draft, ranking of the target and of other recommenders."""

from pathlib import Path
from typing import Any

import typer

from atspeed_core.data.sequences import load_full_examples, load_train
from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.evaluation.lists import check_ks, write_reference
from atspeed_core.evaluation.target_figures import Parts, rank_target, target_result, time_target
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Params
from tasks.machine_lock import machine_alone, machine_shared
from tasks.paths import IDENTIFIERS, PROCESSED, REFERENCE, RESULTS, TARGET
from tasks.stage import ParamsPath, Run, stage

Json = dict[str, Any]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Write the reference lists and times (data/reference), results/target.json and its per-user figures."""
    with stage("evaluate_target", params) as run:
        record(evaluate(run.params), run)


def evaluate(params: Params) -> Json:
    """Measure the target in the project's folder; returns the content of results/target.json.

    Raises:
        UserError: an input is missing or damaged, or a K is larger than the catalog.
    """
    settings, identifiers = params.evaluate, IDENTIFIERS / "identifiers.json"
    train = list(load_train(PROCESSED).values())
    valid, test = (load_full_examples(PROCESSED, part) for part in ("valid", "test"))
    check_ks(settings.ks, Catalog.load(identifiers).trie.num_leaves, len(test))
    decoding = params.decoding().without_draft()
    recommender = Recommender.load(target=TARGET, identifiers=identifiers, decoding=decoding)
    parts = Parts(train, valid, test, params.prepare_data.max_history)
    with machine_shared():
        ranked = rank_target(recommender, parts, settings)
    with machine_alone():
        times = time_target(recommender, parts, settings)
    result = target_result(recommender, ranked, times, parts, settings)
    write_reference(REFERENCE / "lists.parquet", [example.user for example in test], ranked.reference)
    times.save(REFERENCE / "times.parquet")
    with replacing(RESULTS / "per_user" / "target.parquet") as temporary:
        ranked.per_user.to_parquet(temporary, index=False)
    write_json(RESULTS / "target.json", result)
    return result


def record(result: Json, run: Run) -> None:
    """Log to MLflow: metrics with step = K and flat ones such as recall/at_10, the baselines' under their name."""
    run.log_param("num_test_users", result["num_test_users"])
    run.log_param("target_parameters", result["target"]["parameters"])
    for prefix, by_k in {"": result["target"], **result["baselines"]}.items():
        for k, figures in rows_by_k(by_k):
            for name in (name for name, value in figures.items() if isinstance(value, float)):
                full_name = f"{prefix}/{name}".removeprefix("/")
                run.metric(full_name, figures[name], step=int(k))
                run.metric(f"{full_name}/at_{k}", figures[name])
    run.artifact(RESULTS / "target.json")


if __name__ == "__main__":
    app()
