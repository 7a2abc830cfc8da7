"""The order of `make run`: drafts and evaluations side by side, everything else alone, and DVC's own record of it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tasks import pipeline
from tasks.machine_lock import machine_shared, num_waiting
from tasks.pipeline import AFTER_DRAFTS, BEFORE_DRAFTS, REPRO, Job, matrix_stages, reproduce, run_side_by_side
from tests.tiny_project import ROOT

# Each stage writes when it started and when it ended; the drafts wait for each other, so alone they would never end.
STAGE = """
import sys, time
from pathlib import Path
name, seconds, others = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
Path(f"{name}.log").write_text(f"{time.time()}\\n")
while not all(Path(f"{other}.log").exists() for other in others):
    time.sleep(0.05)
time.sleep(seconds)
with Path(f"{name}.log").open("a") as log:
    log.write(f"{time.time()}\\n")
Path(name).write_text(name)
"""
WIRING = """
stages:
  cache_topk: {cmd: python stage.py cache 0.5, outs: [cache]}
  align_draft:
    matrix: {method: [a, b]}
    cmd: python stage.py ${item.method} 0.7 a b
    deps: [cache]
    outs: ["${item.method}"]
  evaluate_target: {cmd: python stage.py target 0.5, deps: [cache], outs: [target]}
  evaluate:
    matrix: {method: [a, b]}
    cmd: python stage.py evaluated_${item.method} 0.7 evaluated_a evaluated_b
    deps: ["${item.method}", target]
    outs: ["evaluated_${item.method}"]
  report: {cmd: python stage.py report 0.5, deps: [evaluated_a, evaluated_b], outs: [report]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(WIRING)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / ".dvc" / "tmp" / "site"))
    return folder


def times(folder: Path, name: str) -> tuple[float, float]:
    start, end = map(float, (folder / f"{name}.log").read_text().split())
    return start, end


def test_drafts_and_evaluations_run_side_by_side_and_dvc_finds_all_as_it_would_have_left_it(project: Path) -> None:
    code, seconds = reproduce(at_once=2)
    assert code == 0
    side_by_side = {f"{stage}@{method}" for stage in ("align_draft", "evaluate") for method in "ab"}
    assert set(seconds) == side_by_side | {"cache_topk", "evaluate_target", "report"}
    assert all(0.4 < value < 30 for value in seconds.values())
    names = ("cache", "a", "b", "target", "evaluated_a", "evaluated_b", "report")
    cache, a, b, target, evaluated_a, evaluated_b, report = (times(project, name) for name in names)
    assert cache[1] < min(a[0], b[0])
    assert max(a[0], b[0]) < min(a[1], b[1])
    assert max(target[1], a[1]) < evaluated_a[0]
    assert max(target[1], b[1]) < evaluated_b[0]
    assert max(evaluated_a[0], evaluated_b[0]) < min(evaluated_a[1], evaluated_b[1])
    assert max(evaluated_a[1], evaluated_b[1]) < report[0]
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    (project / "dvc.lock").unlink()
    subprocess.run([*REPRO, "--no-run-cache"], check=True)
    assert yaml.safe_load((project / "dvc.lock").read_text()) == lock
    assert reproduce(at_once=2) == (0, {})


def test_each_evaluation_waits_for_its_own_draft_and_only_for_what_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("dvc.yaml").write_text(WIRING.replace("matrix: {method: [a, b]}", "matrix: {method: [b, a]}", 1))
    needs = {"evaluate@a": {"align_draft@a", "evaluate_target"}, "evaluate@b": {"align_draft@b", "evaluate_target"}}
    for stale, expected in (({"align_draft"}, needs), ({"report"}, {key: {"evaluate_target"} for key in needs})):
        monkeypatch.setattr(pipeline, "stale_stages", lambda _, stale=stale: stale)
        _, jobs, _ = pipeline.rounds({}, at_once=2)
        assert {job.stage: job.needs for job in jobs if job.stage.startswith("evaluate@")} == expected
        assert set().union(*expected.values()) <= {job.stage for job in jobs}


def test_after_a_failure_nothing_more_is_started(tmp_path: Path) -> None:
    def command(name: str, code: int) -> Job:
        return Job([sys.executable, "-c", f"open({str(tmp_path / name)!r}, 'w'); raise SystemExit({code})"])

    commands = [command("first", 0), command("second", 3), command("third", 0)]
    assert run_side_by_side(commands, 2, dict(os.environ)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_what_a_draft_needs_is_made_before_and_what_needs_one_comes_after() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = {
        out if isinstance(out, str) else next(iter(out)): name
        for name, stage in stages.items()
        for out in stage["outs"]
    }

    def before(name: str) -> set[str]:
        direct = {outs[out] for dep in stages[name].get("deps", []) for out in outs if Path(dep).is_relative_to(out)}
        return direct.union(*(before(other) for other in direct))

    assert before("align_draft") == before(BEFORE_DRAFTS) | {BEFORE_DRAFTS}
    assert set(stages) == before("align_draft") | {"align_draft"} | AFTER_DRAFTS
    assert before("evaluate") == before("align_draft") | {"align_draft", "evaluate_target"}
    for stage in ("align_draft", "evaluate"):
        assert len(matrix_stages(ROOT / "dvc.yaml", stage)) == len(stages[stage]["matrix"]["method"])


def test_a_job_starts_when_what_it_needs_has_ended_and_takes_the_place_of_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One core: the first job waits for the clock until the third, which needs the second, has ended."""
    monkeypatch.chdir(tmp_path)
    wait = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tasks.machine_lock import machine_alone
with machine_alone(): open("clock", "w").write(str(sorted(p.name for p in __import__("pathlib").Path().glob("[bc]"))))
"""
    write = "import time; time.sleep(1); open({!r}, 'w')"
    with machine_shared():
        jobs = [
            Job([sys.executable, "-c", wait], "a"),
            Job([sys.executable, "-c", write.format("b")], "b", disturbs=True),
            Job([sys.executable, "-c", write.format("c")], "c", frozenset({"b"}), disturbs=True),
        ]
        thread = threading.Thread(target=run_side_by_side, args=(jobs, 1, dict(os.environ)))
        thread.start()
        while not Path("c").exists():
            time.sleep(0.05)
        assert num_waiting() == 1
    thread.join()
    assert num_waiting() == 0
    assert (tmp_path / "clock").read_text() == "['b', 'c']"
