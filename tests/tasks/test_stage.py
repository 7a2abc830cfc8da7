"""The shell of every stage: exit codes, one line for a mistake, log lines, and what is kept for MLflow."""

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from atspeed_core.errors import TemporaryError, UserError
from tasks.stage import stage

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATSPEED_OWNER", "")


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def run_and_raise(error: Exception) -> int | None:
    with pytest.raises(SystemExit) as left, stage("prepare_data", PARAMS):
        raise error
    return left.value.code  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("ratings.csv:\n no column 'rating'"), 2),
        (TemporaryError("ratings.csv:\n no column 'rating'"), 75),
        (OSError(errno.ENOSPC, "No space left on device", "ratings.csv"), 75),
    ],
)
def test_a_foreseen_fault_is_one_line_and_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_and_raise(error) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "ratings.csv" in lines[0]
    assert "prepare_data ERROR" in lines[0]


@pytest.mark.parametrize("error", [ValueError("defect"), PermissionError(errno.EACCES, "denied")])
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), stage("prepare_data", PARAMS):
        raise error


def test_a_wrong_params_file_never_starts_the_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "params.yaml"
    wrong.write_text(PARAMS.read_text().replace("max_history", "max_histroy"))
    with pytest.raises(SystemExit) as left, stage("prepare_data", wrong):
        pytest.fail("the body ran")
    assert left.value.code == 2
    assert "did you mean 'max_history'?" in capsys.readouterr().err


def test_lines_name_the_stage_and_its_method(capsys: pytest.CaptureFixture[str]) -> None:
    with stage("align_draft", PARAMS, method="sft"):
        logging.getLogger("atspeed_core.training").info("epoch 1")
    assert "align_draft@sft INFO: epoch 1" in capsys.readouterr().err


def test_a_clean_end_leaves_a_record_with_all_that_was_logged(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    curves.write_text("step,loss\n")
    with stage("finetune_target", PARAMS) as run:
        run.metric("loss", 0.5, step=3)
        run.log_param("num_users", 7)
        run.artifact(curves)
    (folder,) = tmp_path.glob("outbox/[0-9]*")
    record = json.loads((folder / "record.json").read_text())
    assert [(m["name"], m["value"], m["step"]) for m in record["metrics"]] == [("loss", 0.5, 3)]
    assert record["facts"] == {"threads": "1", "num_users": "7"}
    assert record["params"]["finetune_target.architecture.hidden_size"] == "128"
    assert (folder / "artifacts" / "curves.csv").read_text() == "step,loss\n"


def test_a_failed_stage_leaves_no_record(tmp_path: Path) -> None:
    run_and_raise(UserError("no"))
    assert not list(tmp_path.glob("outbox/*"))


def test_an_outbox_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outbox").write_text("a file in its place")
    with stage("prepare_data", PARAMS):
        pass
    assert "WARNING: MLflow: the record of this run could not be written" in capsys.readouterr().err
