"""The table that stands beside the paper's: what is compared, and what is said where we are below."""

from typing import Any

from atspeed_core.evaluation.paper import PaperRun, paper_markdown, tables

KS = ("5", "10")


def figures(accepted: float, **more: float) -> dict[str, Any]:
    values = {"accepted_steps": accepted, "walltime_speedup": 1.5, "recall": 0.02, "ndcg": 0.01, **more}
    plain = {"target_calls": 4 - accepted, "identical_lists": 1.0, "walltime_speedup_oracle": 2.0}
    plain["walltime_speedup_vs_generate"] = 3.0
    return {**values, **{f"{name}_interval": [x - 0.1, x + 0.1] for name, x in values.items()}, **plain}


def make_run(dataset: str = "beauty-release", **changes: Any) -> PaperRun:
    strict = {
        "5": figures(2.8, accepted_steps_published=2.05),
        "10": figures(2.7, accepted_steps_published=1.2),
    }
    device = {"name": "a machine", "cores": 2, "threads": 2, "dtype": "float32", "torch": "2", "transformers": "5"}
    metrics = {
        "device": device,
        "num_test_users": 3553,
        "speedup_baseline": "the target's own beam search",
        "target": {"parameters": 7_200_000, "exclude_history": True, **{k: figures(0) for k in KS}},
        "baselines": {"popularity": {"settings": {}, **{k: figures(0) for k in KS}}},
        "methods": {
            "atspeed_s": {"strict": strict, "relaxed": {k: figures(2.0) for k in KS}},
            "sft": {"strict": {k: figures(2.0, accepted_steps_published=1.5) for k in KS}},
            "one_shot": {"strict": {k: figures(3.0) for k in KS}},
        },
        "calls_by_nodes": {},
    }
    settings = {"align_draft": {"beta": 0}}
    given = {"label": dataset, "dataset": dataset, "commit": "abc123", "settings": settings, "failed": [], **changes}
    return PaperRun(metrics=metrics, **given)


def test_each_figure_stands_beside_the_published_one() -> None:
    accepted, speed, ranking, _ = tables(make_run())
    assert accepted.rows[0][:5] == ["atspeed_s", "strict", "5", "2.05 [1.95, 2.15]", "2.00"]
    assert accepted.rows[1][:5] == ["atspeed_s", "strict", "10", "1.20 [1.10, 1.30]", "1.64"]
    assert accepted.rows[2][4:] == [
        "-",
        "2.00",
        "2.00",
        "-",
    ]  # the paper has no relaxed row of it; relaxed lists differ
    assert accepted.rows[-1][:4] == ["one_shot", "strict", "10", "-"]  # it drafts no rounds
    assert speed.rows[0][3:5] == ["1.50 [1.40, 1.60]", "1.84"]
    assert ranking.rows[1][:4] == ["target", "10", "0.0200 [-0.0800, 0.1200]", "0.0098"]
    assert ranking.rows[3][3] == "-"


def test_it_says_where_we_are_below_and_what_failed() -> None:
    text = paper_markdown([make_run(failed=["seqkd"], label="beauty-release-no-dr")])
    assert "# beauty-release-no-dr" in text
    assert "in 1 of 4: atspeed_s strict K = 10 (1.20 against 1.64)." in text
    assert "Highest AS of the paper's methods, strict: K = 5 atspeed_s 2.05; K = 10 sft 1.50." in text
    assert "Failed and left out: seqkd." in text
    assert "align_draft {'beta': 0}" in text
    assert "commit abc123" in text


def test_a_data_set_that_the_paper_does_not_have_is_compared_with_nothing() -> None:
    run = make_run("steam")
    assert {row[4] for table in tables(run)[:2] for row in table.rows} == {"-"}
    assert "AS below" not in paper_markdown([run])
