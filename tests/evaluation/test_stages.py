"""The evaluation stages on files of a tiny project, with a recommender of fixed lists in the models' place."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from atspeed_core.data.sequences import Example
from atspeed_core.decoding.plan import Choice
from atspeed_core.errors import UserError
from atspeed_core.evaluation import draft_figures, target_figures
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.settings import Params
from tasks import evaluate, evaluate_target
from tests.complete_params import completed

SHAPE = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}


EVALUATE = {
    "ks": [1, 2],
    "batch_size": 3,
    "timing_users": 2,
    "bootstrap_samples": 50,
    "sasrec": {"hidden_size": 8, "max_updates": 10},
}


def make_params(**settings: Any) -> Params:
    return Params.model_validate(
        completed(
            {
                "prepare_data": {"dataset": "tiny", "source": "movielens", "path": "nowhere", "max_history": 3},
                "finetune_target": {"architecture": SHAPE},
                "align_draft": {"architecture": SHAPE},
                "evaluate": {**EVALUATE, **settings},
            }
        )
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recommender: Any, examples: list[Example]) -> Path:
    """Processed data and identifiers; the last item of each history is the validation item."""
    monkeypatch.chdir(tmp_path)
    processed = tmp_path / "data/processed"
    processed.mkdir(parents=True)
    train = {example.user: example.history[:-1] for example in examples}
    pd.DataFrame({"user_id": list(train), "item_ids": list(train.values())}).to_parquet(processed / "train.parquet")
    write_part(processed / "test.parquet", examples)
    valid = [Example(example.user, example.history[:-1], example.history[-1:]) for example in examples]
    write_part(processed / "valid.parquet", valid)
    items = sorted({item for example in examples for item in [*example.history, *example.targets]})
    identifiers = {item: [f"<a_{n % 3}>", f"<b_{n}>"] for n, item in enumerate(items)}
    recommender.catalog = Catalog.from_identifiers(identifiers)
    recommender.catalog.save(tmp_path / "data/identifiers/identifiers.json")
    for stage in (evaluate, evaluate_target):
        monkeypatch.setattr(stage.Recommender, "load", lambda **_: recommender)
    # Fixed lists have no draft and cost nothing that could be planned.
    monkeypatch.setattr(evaluate, "validation_histories", lambda *_: [])
    monkeypatch.setattr(draft_figures, "errors_by_k", lambda given, valid, ks: dict.fromkeys(ks))
    monkeypatch.setattr(draft_figures, "with_plan", lambda given, *_: given)
    return tmp_path


def write_part(path: Path, part: Sequence[Example]) -> None:
    columns = {"user_id": [e.user for e in part], "history": [e.history for e in part]}
    pd.DataFrame({**columns, "targets": [e.targets for e in part]}).to_parquet(path)


def test_target_first_then_a_method(project: Path) -> None:
    target = evaluate_target.evaluate(make_params())
    method = evaluate.evaluate("sft", make_params())
    assert target["target"]["1"]["recall"] == pytest.approx((1 + 0.5) / 4)
    assert list(target["baselines"])[:3] == ["popularity", "item_knn", "sasrec"]
    assert target["baselines"]["sasrec"]["settings"].keys() == {"updates", "exclude_seen"}
    assert target["baselines"]["popularity"]["2"]["recall"] == 0  # every item is liked once; none is a target
    assert method["reference_sha256"] == target["reference_sha256"]
    shares = {
        (verification, k): figures["identical_lists"]
        for verification, by_k in method["verifications"].items()
        for k, figures in by_k.items()
    }
    assert shares == {("strict", "1"): 1.0, ("strict", "2"): 1.0, ("relaxed", "1"): 1.0, ("relaxed", "2"): 0.75}
    assert json.loads((project / "results/sft.json").read_text()) == method
    per_user = pd.read_parquet(project / "results/per_user/sft.parquet")
    assert len(per_user) == 4 * 2 * 2
    assert per_user["identical"].sum() == 15


def test_the_paper_s_accepted_steps_stand_beside_ours(project: Path, recommender: Any) -> None:
    evaluate_target.evaluate(make_params())
    strict = evaluate.evaluate("sft", make_params())["verifications"]["strict"]
    for figures in strict.values():
        assert (figures["accepted_steps"], figures["accepted_steps_published"]) == (2, 1)
        assert figures["target_calls_published"] == 3
        assert figures["accepted_steps_published_interval"] == [1, 1]
    recommender.drafts_in_rounds = False  # a one-shot draft
    strict = evaluate.evaluate("sft", make_params())["verifications"]["strict"]
    assert not any("accepted_steps_published" in figures for figures in strict.values())


def test_drawn_lists_are_compared_with_the_target_s_own_draws(
    project: Path, recommender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_target.evaluate(make_params())
    asked: list[str] = []
    plain = type(recommender)()
    plain.recommend = (
        lambda histories, k, verification, seed: (  # type: ignore[method-assign]
            asked.append(f"{verification} {seed}"),
            plain._answer([history[:-1] for history in histories], k, steps=0),
        )[1]
    )
    monkeypatch.setattr(recommender, "without_speculation", lambda: plain, raising=False)
    made = evaluate.evaluate("sft", make_params(ks=[1], verifications=["strict", "exact_sampling"], seed=7))
    shares = {name: by_k["1"]["identical_lists"] for name, by_k in made["verifications"].items()}
    assert shares == {"strict": 1.0, "exact_sampling": 0.0}
    assert asked == ["exact_sampling 7", "exact_sampling 10"]


def test_a_draft_that_offers_no_verification_asked_for_has_no_figures(project: Path, recommender: Any) -> None:
    evaluate_target.evaluate(make_params())
    recommender.offered = ()
    made = evaluate.evaluate("sft", make_params(verifications=["relaxed"]))
    assert made["verifications"] == {}
    assert len(pd.read_parquet(project / "results/per_user/sft.parquet")) == 0


def test_the_target_s_draws_are_ranked_beside_it(project: Path, recommender: Any) -> None:
    target = evaluate_target.evaluate(make_params(temperature=0.5))
    for name in ("target_sampling", "target_sampling_published"):
        assert target["baselines"][name]["settings"] == {"temperature": 0.5}
        assert target["baselines"][name]["2"]["recall"] == target["target"]["2"]["recall"]  # fixed lists
    assert recommender.calls.count("sampled") == 2 * 2  # batches of users at each K
    assert recommender.calls.count("exact_sampling") == 2  # the longest lists alone


def test_reference_lists_stand_in_the_users_order_whatever_was_made_first(recommender: Any) -> None:
    histories = [["a", "b", "c"], ["d"], ["e", "f"], ["g", "h", "i", "j"]]
    users = [Example(f"u{n}", history, ["x"]) for n, history in enumerate(histories)]
    lists = target_figures.reference_lists(recommender, users, make_params(ks=[1]).evaluate)
    assert lists[1]["items"].tolist() == [["c"], ["d"], ["f"], ["j"]]


def test_batches_of_relaxed_have_their_own_seeds(project: Path, recommender: Any) -> None:
    evaluate_target.evaluate(make_params())
    recommender.seeds.clear()
    evaluate.evaluate("sft", make_params(ks=[2], seed=100))
    assert recommender.seeds[2:4] == [100, 103]  # behind the batches of strict


def test_what_needs_no_draft_is_timed_once(project: Path, recommender: Any) -> None:
    evaluate_target.evaluate(make_params(ks=[1]))
    runs = 2 * 3 + 2  # two users three times, and two warm-ups
    # The lists that generate gives in batches are four in two batches.
    assert (recommender.calls.count("oracle"), recommender.calls.count("generate")) == (runs, runs + 2)
    recommender.calls.clear()
    figures = evaluate.evaluate("sft", make_params(ks=[1], verifications=["strict"]))["verifications"]["strict"]["1"]
    assert recommender.calls.count("none") == runs
    assert recommender.calls.count("oracle") == recommender.calls.count("generate") == 0
    assert figures["walltime_speedup_oracle"] > 0
    assert figures["walltime_speedup_vs_generate"] > 0
    assert figures["speculated"] is True


def test_where_nothing_is_speculated_strict_has_the_times_of_no_speculation(project: Path, recommender: Any) -> None:
    target = evaluate_target.evaluate(make_params(ks=[1]))
    recommender.choice = Choice(speculation="none")
    recommender.calls.clear()
    found = evaluate.evaluate("sft", make_params(ks=[1], verifications=["strict", "relaxed", "exact_sampling"]))
    strict, relaxed, sampled = (found["verifications"][name]["1"] for name in ("strict", "relaxed", "exact_sampling"))
    assert (strict["speculated"], relaxed["speculated"], sampled["speculated"]) == (False, True, False)
    assert (strict["walltime_speedup"], strict["walltime_speedup_interval"]) == (1, [1, 1])
    assert strict["latency_ms_p50"] == strict["baseline_latency_ms_p50"]
    assert strict["walltime_speedup_vs_generate"] == target["target"]["1"]["walltime_speedup_vs_generate"]
    assert sampled["walltime_speedup"] != 1  # another search than no speculation's, so it is timed
    assert recommender.calls.count("strict") == 2  # the lists of four users in batches of three, and no timing


def test_the_load_of_the_machine_is_on_record(project: Path) -> None:
    target = evaluate_target.evaluate(make_params())
    timing = evaluate.evaluate("sft", make_params())["timing"]
    for facts in (target["timing"], timing):
        assert facts["load_average"].keys() == {"1", "2"}
        assert all(load >= 0 for load in facts["load_average"].values())
    assert (timing["users"], timing["repetitions"]) == (2, 3)


def test_lossy_lists_are_those_of_fewer_users(project: Path) -> None:
    evaluate_target.evaluate(make_params())
    found = evaluate.evaluate("sft", make_params(lossy_users=2))["verifications"]
    assert {name: by_k["1"]["users"] for name, by_k in found.items()} == {"strict": 4, "relaxed": 2}
    per_user = pd.read_parquet(project / "results/per_user/sft.parquet")
    assert per_user.groupby("verification")["user_id"].nunique().to_dict() == {"strict": 4, "relaxed": 2}


def test_times_of_other_users_are_refused(project: Path) -> None:
    evaluate_target.evaluate(make_params(timing_users=2))
    with pytest.raises(UserError, match=r"times.parquet: other users or K than this evaluation has"):
        evaluate.evaluate("sft", make_params(timing_users=3))


def test_too_long_lists_are_refused_before_the_model_is_loaded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_target.Recommender, "load", lambda **_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match="K = 30 is larger than the catalog: the catalog has 13 identifiers"):
        evaluate_target.evaluate(make_params(ks=[1, 30]))
    assert not (project / "results").exists()


def test_a_method_needs_the_reference_lists(project: Path) -> None:
    with pytest.raises(UserError, match="run the evaluate_target stage first"):
        evaluate.evaluate("sft", make_params())
    assert not (project / "results").exists()


def test_a_list_that_only_the_batch_rounded_otherwise_is_asked_alone(recommender: Any) -> None:
    """Generate in a batch swaps two items of one request; alone it does not, and nor does our beam search."""
    histories, generate = [["a", "b"], ["c", "d"], ["e", "f"]], recommender.generate

    def rounding(asked: list[list[str]], k: int, *, prompt_once: bool = False) -> Any:
        made = generate(asked, k)
        if len(asked) > 1:
            made.items[1].reverse()
            made.scores[1].reverse()
        return made

    recommender.generate = rounding
    found = target_figures.generated(recommender, histories, 2)
    assert found.items == [["b", "a"], ["d", "c"], ["f", "e"]]
    assert found.scores[1] == generate([["c", "d"]], 2).scores[0]
    assert recommender.calls.count("generate") == 2 + 1
