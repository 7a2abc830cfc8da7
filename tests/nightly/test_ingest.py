"""Nights on a real git repository and a real DVC remote: ingest and check_interactions as the DAG calls them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from atspeed_core.data.partitions import DAY_SECONDS, day_start
from tasks.nightly.night import Night

ROOT = Path(__file__).resolve().parents[2]
PRESET = """
description: a tiny data set
params: {prepare_data: {source: daily, path: data/interactions}}
nightly: {checks: {volume_low: 0.5, volume_high: 3.0, min_rows: 1000}}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    answer: dict[str, Any]
    log: str


@dataclass
class Deployment:
    """A repository, and the folder that its nights share."""

    folder: Path

    @property
    def feed(self) -> Path:
        return self.folder / "home" / "feeds" / "tiny"

    def checkout(self, date: str) -> Path:
        return self.folder / "home" / "checkouts" / date

    def put(self, day: int, num_rows: int = 20, **columns: Any) -> None:
        start = day_start("2026-01-01") + (day - 1) * DAY_SECONDS
        rows = [(f"u{n % 7}", f"i{n % 5}", 4.0, start + n) for n in range(num_rows)]
        frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"]).assign(**columns)
        self.feed.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(self.feed / f"2026-01-{day:02d}.parquet")

    def open(self, date: str, base: str | None, **facts: Any) -> Path:
        """A checkout of the repository with night.json."""
        checkout = self.checkout(date)
        self.run("git", "clone", "--quiet", str(self.folder / "repository"), str(checkout))
        local = f"['remote \"nightly\"']\n    url = {self.folder}/remote\n[cache]\n    dir = {self.folder}/cache\n"
        (checkout / ".dvc" / "config.local").write_text(f"[core]\n    remote = nightly\n{local}")
        base_tag = f"nightly-tiny/{base}" if base else None
        own = {"run_id": date, "date": date, "dataset": "tiny", "methods": ["sft"], "commit": "c"}
        Night(**own, tag=f"nightly-tiny/{date}", base_tag=base_tag, **facts).save(checkout)
        return checkout

    def call(self, name: str, date: str) -> Ended:
        """Run a nightly command in the checkout of a night."""
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        own = {"ATSPEED_HOME": str(self.folder / "home"), "ATSPEED_ANSWER": str(answer), "PYTHONPATH": str(ROOT)}
        own["DVC_SITE_CACHE_DIR"] = str(self.folder / "site")
        done = subprocess.run(
            [sys.executable, "-m", f"tasks.nightly.{name}"],
            cwd=self.checkout(date),
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=120,
        )
        content = json.loads(answer.read_text()) if answer.exists() else {}
        return Ended(done.returncode, content, done.stderr)

    def close(self, date: str) -> None:
        """Commit and tag a night, as commit_night does."""
        checkout = self.checkout(date)
        self.run("git", "add", "data", cwd=checkout)
        self.run("git", "commit", "--quiet", "--message", date, cwd=checkout)
        self.run("git", "tag", f"nightly-tiny/{date}", cwd=checkout)
        self.run("git", "push", "--quiet", "origin", f"nightly-tiny/{date}", cwd=checkout)

    def night(self, date: str, base: str | None) -> Ended:
        self.open(date, base)
        ended = self.call("ingest", date)
        assert ended.code == 0, ended.log
        self.close(date)
        return ended

    def run(self, *command: str, cwd: Path | None = None) -> None:
        names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        subprocess.run(command, cwd=cwd, env={**os.environ, **names}, check=True, capture_output=True)


def held(checkout: Path) -> list[str]:
    """The days in data/interactions, by what is in the files."""
    frames = [pd.read_parquet(path) for path in sorted((checkout / "data" / "interactions").glob("2026-*.parquet"))]
    days = pd.to_datetime(pd.concat(frames)["timestamp"], unit="s").dt.strftime("%d")
    return sorted(set(days))


def state(checkout: Path) -> dict[str, bytes]:
    files = [checkout / "data" / "interactions.dvc", *(checkout / "data" / "interactions").iterdir()]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Green nights of days 1 and 3 (day 2 with it), and then of day 2, filled in afterwards."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    repository = deployment.folder / "repository"
    (repository / "presets").mkdir(parents=True)
    (repository / "presets" / "tiny.yaml").write_text(PRESET)
    (repository / ".gitignore").write_text("night.json\nchecks.json\n")
    deployment.run("git", "init", "--quiet", cwd=repository)
    deployment.run(sys.executable, "-m", "dvc", "init", "--quiet", cwd=repository)
    deployment.run("git", "add", ".", cwd=repository)
    deployment.run("git", "commit", "--quiet", "--message", "start", cwd=repository)
    for day in (1, 2, 3):
        deployment.put(day)
    first = deployment.night("2026-01-01", None)
    assert first.answer == {"new_interactions": 20, "days": ["2026-01-01"], "total_interactions": 20}
    third = deployment.night("2026-01-03", "2026-01-01")
    assert third.answer == {"new_interactions": 40, "days": ["2026-01-02", "2026-01-03"], "total_interactions": 60}
    second = deployment.night("2026-01-02", "2026-01-01")
    assert second.answer == {"new_interactions": 20, "days": ["2026-01-02"], "total_interactions": 40}
    return deployment


@pytest.fixture
def tonight(deployment: Deployment) -> Any:
    """Opens the night of day 4 upon that of day 3, and takes checkout and day away again."""
    yield lambda **facts: deployment.open("2026-01-04", "2026-01-03", **facts)
    shutil.rmtree(deployment.checkout("2026-01-04"), ignore_errors=True)
    (deployment.feed / "2026-01-04.parquet").unlink(missing_ok=True)


def test_a_past_date_gets_its_own_version_without_the_days_after_it(deployment: Deployment) -> None:
    days = {day: held(deployment.checkout(f"2026-01-{day}")) for day in ("01", "02", "03")}
    assert days == {"01": ["01"], "02": ["01", "02"], "03": ["01", "02", "03"]}


def test_a_night_is_whole_in_a_fresh_clone(deployment: Deployment, tmp_path: Path) -> None:
    deployment.run("git", "clone", "--quiet", str(deployment.folder / "repository"), str(tmp_path / "clone"))
    deployment.run("git", "checkout", "--quiet", "nightly-tiny/2026-01-02", cwd=tmp_path / "clone")
    remote = ("remote", "add", "--local", "--default", "nightly", str(deployment.folder / "remote"))
    for arguments in (remote, ("pull", "--quiet")):
        deployment.run(sys.executable, "-m", "dvc", *arguments, cwd=tmp_path / "clone")
    assert state(tmp_path / "clone") == state(deployment.checkout("2026-01-02"))


def test_a_second_run_changes_nothing_even_after_a_kill(deployment: Deployment) -> None:
    checkout = deployment.checkout("2026-01-02")
    before = state(checkout)
    shutil.copy(deployment.feed / "2026-01-03.parquet", checkout / "data" / "interactions")  # not in its pointer
    (checkout / "data" / "interactions" / "2026-01-01.parquet").unlink()
    again = deployment.call("ingest", "2026-01-02")
    assert (again.code, again.answer["total_interactions"]) == (0, 40), again.log
    assert state(checkout) == before


def test_a_night_without_new_data_says_where_it_looked(deployment: Deployment, tonight: Callable[..., Path]) -> None:
    checkout = tonight()
    deployment.put(4, num_rows=0)
    ended = deployment.call("ingest", "2026-01-04")
    assert (ended.code, ended.answer) == (99, {})
    message = f"looked in {deployment.feed} for the days after 2026-01-03 up to 2026-01-04 and found only empty files"
    assert message in ended.log
    assert state(checkout) == state(deployment.checkout("2026-01-03"))


def test_a_forced_night_goes_on_without_new_data_and_is_told_of_late_days(
    deployment: Deployment, tonight: Callable[..., Path]
) -> None:
    checkout = tonight(force="all", dry_run=True)
    deployment.put(2, item_id="other")
    ended = deployment.call("ingest", "2026-01-04")
    deployment.put(2)
    assert (ended.code, ended.answer["new_interactions"], ended.answer["total_interactions"]) == (0, 0, 60), ended.log
    assert "not ingested, because their nights are closed: 2026-01-02 arrived late or changed since" in ended.log
    assert "has no file of 2026-01-04; a file that arrives later is not ingested" in ended.log
    assert state(checkout) == state(deployment.checkout("2026-01-03"))


def test_a_damaged_day_is_one_line_and_no_change(deployment: Deployment, tonight: Callable[..., Path]) -> None:
    checkout = tonight()
    deployment.put(4, timestamp=day_start("2026-01-05"))
    ended = deployment.call("ingest", "2026-01-04")
    assert ended.code == 2
    last = ended.log.splitlines()[-1]
    assert "2026-01-04.parquet: row 1: timestamp 1767571200 (2026-01-05 00:00:00) is not on 2026-01-04" in last
    assert "Traceback" not in ended.log
    assert state(checkout) == state(deployment.checkout("2026-01-03"))


def test_what_the_cache_has_lost_comes_from_the_remote(deployment: Deployment, tonight: Callable[..., Path]) -> None:
    checkout = tonight()
    deployment.put(4)
    shutil.rmtree(deployment.folder / "cache")
    ended = deployment.call("ingest", "2026-01-04")
    assert (ended.code, ended.answer["total_interactions"]) == (0, 80), ended.log
    assert held(checkout) == ["01", "02", "03", "04"]


def test_a_remote_that_is_away_is_a_temporary_fault(deployment: Deployment, tonight: Callable[..., Path]) -> None:
    config = tonight() / ".dvc" / "config.local"
    usual = config.read_text()
    deployment.put(4, num_rows=21)
    config.write_text(usual.replace(str(deployment.folder / "remote"), "http://127.0.0.1:9"))  # nothing answers there
    ended = deployment.call("ingest", "2026-01-04")
    config.write_text(usual)
    assert ended.code == 75, ended.log
    assert "failed to upload" in ended.log.splitlines()[-1]
    assert deployment.call("ingest", "2026-01-04").code == 0


def test_a_base_that_is_neither_in_the_cache_nor_in_the_remote(
    deployment: Deployment, tonight: Callable[..., Path]
) -> None:
    checkout = tonight()
    config = checkout / ".dvc" / "config.local"
    config.write_text(config.read_text().replace("/remote", "/nowhere").replace("/cache", "/empty"))
    ended = deployment.call("ingest", "2026-01-04")
    assert ended.code == 75, ended.log
    assert "Traceback" not in ended.log


def test_a_day_like_the_others_passes_and_its_figures_are_kept(
    deployment: Deployment, tonight: Callable[..., Path]
) -> None:
    checkout = tonight()
    deployment.put(4)
    assert deployment.call("ingest", "2026-01-04").code == 0
    ended = deployment.call("check_interactions", "2026-01-04")
    assert ended.code == 0, ended.log
    checks = json.loads((checkout / "checks.json").read_text())["checks"]
    assert ended.answer["checks"] == checks
    assert {check["day"] for check in checks} == {"2026-01-04"}
    assert {check["name"]: check["value"] for check in checks}["volume_low"] == 1.0
    assert [check["name"] for check in checks if check["judged"]] == ["volume_low", "volume_high"]


def test_every_new_day_is_judged_and_all_reasons_are_in_one_line(deployment: Deployment) -> None:
    deployment.put(4, num_rows=5)
    deployment.put(5, num_rows=100)
    checkout = deployment.open("2026-01-05", "2026-01-03")
    assert deployment.call("ingest", "2026-01-05").code == 0
    for day in (4, 5):
        (deployment.feed / f"2026-01-0{day}.parquet").unlink()
    ended = deployment.call("check_interactions", "2026-01-05")
    assert ended.code == 2
    last = ended.log.splitlines()[-1]
    assert "2026-01-04: volume_low is 0.25, volume_low is 0.5; 2026-01-05: volume_high is 5, volume_high is 3: " in last
    assert "change nightly.checks.volume_high, nightly.checks.volume_low in presets/tiny.yaml" in last
    assert len(json.loads((checkout / "checks.json").read_text())["checks"]) == 12


def test_a_first_night_has_nothing_to_be_compared_with(deployment: Deployment) -> None:
    ended = deployment.call("check_interactions", "2026-01-01")
    assert (ended.code, ended.answer) == (0, {"checks": []}), ended.log
    assert "nothing to compare" in ended.log
