"""The tables alongside the paper's: what is compared, and what is said where we are below."""

from typing import Any
from xml.etree import ElementTree

from atspeed_core.reporting.paper_plot import paper_svg, variants_svg
from atspeed_core.reporting.paper_tables import PaperRun, paper_markdown, tables, variant_tables
from atspeed_core.reporting.text_table import TextTable

KS = ("5", "10")


def figures(accepted: float, **more: float) -> dict[str, Any]:
    values = {"accepted_steps": accepted, "walltime_speedup": 1.5, "recall": 0.02, "ndcg": 0.01, **more}
    values |= {"walltime_speedup_oracle": 2.0, "walltime_speedup_vs_generate": 3.0}
    plain = {"target_calls": 4 - accepted, "identical_lists": 1.0}
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
            "atspeed_s": {"strict": strict, "relaxed": {k: figures(2.0, recall=0.03) for k in KS}},
            "sft": {"strict": {k: figures(2.0, accepted_steps_published=1.5) for k in KS}},
            "one_shot": {"strict": {k: figures(3.0) for k in KS}},
        },
        "calls_by_nodes": {
            "sft": [
                {
                    "k": 10,
                    "drafted_nodes": n,
                    "target_calls": 2.5,
                    "target_nodes": 140,
                    "target_nodes_p95": 200,
                    "users": 9,
                }
                for n in (128, 256)
            ],
            "one_shot": [
                {
                    "k": 10,
                    "drafted_nodes": 128,
                    "target_calls": 1.5,
                    "target_nodes": 130,
                    "target_nodes_p95": 150,
                    "users": 9,
                }
            ],
        },
    }
    settings = {"align_draft": {"beta": 0}}
    given = {"label": dataset, "dataset": dataset, "commit": "abc123", "settings": settings, "failed": [], **changes}
    return PaperRun(metrics=metrics, **given)


def by_title(shown: list[TextTable]) -> dict[str, TextTable]:
    return {table.title: table for table in shown}


def test_each_figure_has_the_published_one_in_brackets() -> None:
    titled = by_title(tables(make_run()))
    strict, relaxed = titled["Accepted steps, strict"], titled["Accepted steps, relaxed"]
    assert strict.columns == ["method", "K = 5", "K = 10"]
    assert strict.rows[0] == ["atspeed_s", "2.05 [1.95, 2.15] (2.00)", "1.20 [1.10, 1.30] (1.64)"]
    assert strict.rows[2] == ["one_shot", "-", "-"]  # it drafts no rounds
    assert relaxed.rows == [["atspeed_s", "2.00 [1.90, 2.10]", "2.00 [1.90, 2.10]"]]  # the paper has no such row
    assert titled["Target calls per request, strict by our scheme"].rows[0] == ["atspeed_s", "1.20", "1.30"]
    assert titled["Walltime speedup, strict"].rows[0][1] == "1.50 [1.40, 1.60] (1.84)"
    assert titled["Oracle and generate, strict"].rows[0][1] == "75%, 3.0 x"
    recall = {row[0]: row[1:] for row in titled["Recall"].rows}
    assert recall["target"][1] == "0.0200 [-0.0800, 0.1200] (0.0098)"
    assert recall["popularity"][1] == "0.0200 [-0.0800, 0.1200]"
    assert recall["atspeed_s, relaxed"][1] == "0.0300 [-0.0700, 0.1300]"  # sampled lists
    assert "sft, strict" not in recall  # those are the target's


def test_calls_are_compared_at_equal_node_budget() -> None:
    table = by_title(tables(make_run()))["Calls at equal node budget"]
    assert table.columns == ["K", "method", "128 drafted", "256 drafted"]
    assert table.rows == [
        ["10", "sft", "2.50 (140, 200)", "2.50 (140, 200)"],
        ["10", "one_shot", "1.50 (130, 150)", "-"],
    ]


def test_it_says_where_we_are_below_and_what_failed() -> None:
    text = paper_markdown([make_run(failed=["seqkd"])])
    assert "# beauty-release" in text
    assert "in 1 of 4 cells: atspeed_s strict K = 10 (1.20 against 1.64)." in text
    assert "Highest AS of the paper's methods, strict: K = 5 atspeed_s 2.05; K = 10 sft 1.50." in text
    assert "Failed, therefore missing: seqkd." in text
    assert "align_draft {'beta': 0}" in text
    assert "commit abc123" in text
    assert "![AS and target calls by K](beauty-release.svg)" in text


def test_it_says_which_lists_are_not_the_targets() -> None:
    run = make_run()
    sampled = {k: {**figures(2.0), "identical_lists": 0.5} for k in KS}  # of these nothing is said here
    run.metrics["methods"]["sft"]["exact_sampling"] = sampled
    assert "generate in 6 of 6 cells." in paper_markdown([run])
    run.metrics["methods"]["sft"]["strict"]["10"]["identical_lists"] = 0.99972
    assert "generate in 5 of 6 cells; but not all of sft K = 10: 0.99972." in paper_markdown([run])


def test_ablations_stand_below_their_run_and_name_what_they_change() -> None:
    base = make_run(settings={"align_draft": {"beta": 0.2}, "evaluate": {"ks": [5, 10]}})
    changed = {"align_draft": {"beta": 0.0}, "evaluate": {"ks": [5, 10]}}
    ablation = make_run(label="beauty-release-no-dr", commit="def456", settings=changed)
    del ablation.metrics["methods"]["sft"], ablation.metrics["methods"]["one_shot"]
    ablation.metrics["methods"]["atspeed_s"]["strict"]["5"] = figures(2.6, accepted_steps_published=1.9)
    titled = by_title(variant_tables(base, [base, ablation]))
    assert titled["Ablations and sweeps: AS, strict"].rows == [
        ["atspeed_s", "(whole)", "-", "abc123", "2.05 [1.95, 2.15]", "1.20 [1.10, 1.30]"],
        ["atspeed_s", "no-dr", "align_draft.beta = 0.0", "def456", "1.90 [1.80, 2.00]", "1.20 [1.10, 1.30]"],
    ]
    assert [row[-2] for row in titled["Ablations and sweeps: calls, strict"].rows] == ["1.20", "1.40"]
    assert "Ablations and sweeps: AS, relaxed" in titled
    text = paper_markdown([base, ablation])
    assert text.count("\n# ") == 1  # the ablation has no section of its own
    assert "Ablations" not in paper_markdown([base])
    assert "\n# beauty-release-no-dr" in paper_markdown([ablation])  # but where its run is missing


def test_what_all_ablations_change_is_named_once() -> None:
    base = make_run(settings={"align_draft": {"beta": 0.2}})
    short = {"evaluate": {"plan": {"users": 32}}}
    betas = [
        make_run(label=f"beauty-release-{beta}", settings={"align_draft": {"beta": beta}, **short})
        for beta in (0.0, 1.0)
    ]
    table = variant_tables(base, [base, *betas])[0]
    assert "All except (whole) also have evaluate.plan.users = 32." in table.note
    assert [row[2] for row in table.rows[:3]] == ["-", "align_draft.beta = 0.0", "align_draft.beta = 1.0"]


def test_the_scheme_of_a_verification_is_named() -> None:
    run = make_run()
    run.metrics["methods"]["sft"]["exact_sampling"] = {k: figures(2.0) for k in KS}
    titled = by_title(tables(run))
    assert "by the paper's scheme" in titled["Accepted steps, relaxed"].note
    assert "by our scheme" in titled["Accepted steps, exact_sampling"].note
    assert "AS by our scheme, exact_sampling" in paper_svg(run)


def test_a_data_set_that_the_paper_does_not_have_is_compared_with_nothing() -> None:
    run = make_run("steam")
    cells = [cell for table in tables(run)[:5] for row in table.rows for cell in row]
    assert not any("(" in cell for cell in cells)
    assert "AS below" not in paper_markdown([run])


def test_the_picture_has_one_line_per_method_and_the_published_figures() -> None:
    text = paper_svg(make_run())
    assert paper_svg(make_run()) == text
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for label in ("atspeed_s", "sft", "one_shot", "atspeed_s, published"):
        assert f"<!-- {label} -->" in text
    assert "<!-- one_shot, published -->" not in text


def test_the_picture_of_ablations_has_one_row_per_run_and_one_color_per_k() -> None:
    base = make_run()
    family = [base, make_run(label="beauty-release-no-dr")]
    del family[1].metrics["methods"]["sft"]
    base.metrics["methods"]["atspeed_s"]["exact_sampling"] = {k: figures(2.0) for k in KS}  # of the whole run alone
    text = variants_svg(base, family)
    assert "exact_sampling" not in text
    assert not any("exact_sampling" in table.title for table in variant_tables(base, family))
    assert variants_svg(base, family) == text
    shown = ("atspeed_s, (whole)", "atspeed_s, no-dr", "one_shot, no-dr", "K = 5", "K = 10", "relaxed")
    for label in shown:
        assert label in text
    assert "sft" not in text
    assert "(beauty-release.variants.svg)" in paper_markdown(family)
    assert "variants.svg" not in paper_markdown([base])
