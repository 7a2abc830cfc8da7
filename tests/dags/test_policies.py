"""The policies that every DAG and every task follows."""

import ast
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
DAG_IDS = [path.stem for path in DAG_FILES]
SHARED = sorted((ROOT / "dags" / "atspeed_dags").glob("*.py"))
LINES_OF_A_DAG = 300
SECONDS_TO_PARSE = 1.0
NEEDS = ("cpus", "ram", "gpus")


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def tasks_of(bag: Any, dag_id: str) -> list[Any]:
    return list(bag.dags[dag_id].tasks)


def option(task: Any, name: str) -> Any:
    """An option of a task, mapped or not."""
    return task.partial_kwargs[name] if task.is_mapped else getattr(task, name)


def test_every_file_is_read_without_error(bag: Any) -> None:
    assert bag.import_errors == {}
    assert DAG_IDS
    assert sorted(bag.dags) == DAG_IDS, "a DAG has the name of its file, which names `airflow` and `dag`"


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_every_dag_has_its_own_test(dag_id: str) -> None:
    assert (Path(__file__).parent / f"test_{dag_id}.py").exists()


@pytest.mark.parametrize("path", [*DAG_FILES, *SHARED], ids=lambda path: path.name)
def test_imports_are_the_sdk_and_the_standard_library(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        ours = top == "atspeed_dags"
        sdk = name == "airflow.sdk" or name == "airflow.sdk.exceptions"
        assert ours or sdk or top in sys.stdlib_module_names, name


def test_reading_the_files_imports_nothing_heavy() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'dags')!r}); import {', '.join(path.stem for path in DAG_FILES)}; "
        "heavy = {'torch', 'transformers', 'mlflow', 'dvc', 'pandas', 'numpy', 'atspeed_core', 'tasks'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"


def test_files_are_quick_to_parse_and_short(bag: Any) -> None:
    assert {stat.file.lstrip("/") for stat in bag.dagbag_stats} == {path.name for path in DAG_FILES}
    assert all(stat.duration < timedelta(seconds=SECONDS_TO_PARSE) for stat in bag.dagbag_stats)
    assert all(len(path.read_text().splitlines()) <= LINES_OF_A_DAG for path in DAG_FILES)


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_every_dag_says_what_it_is_and_is_bounded(bag: Any, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert dag.description
    assert len(dag.doc_md.strip().splitlines()) > 3
    assert "atspeed" in dag.tags
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert timedelta(0) < dag.dagrun_timeout <= timedelta(days=2)
    assert dag.deadline
    assert all(alert.interval < dag.dagrun_timeout for alert in dag.deadline)


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_every_param_of_a_trigger_form_is_typed_and_described(bag: Any, dag_id: str) -> None:
    params = bag.dags[dag_id].params
    for name, param in params.items():
        schema = params.get_param(name).schema
        assert schema.get("type"), name
        assert schema.get("title"), name
        assert params.get_param(name).description, name
        assert param is not None or "null" in schema["type"], name


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_every_task_follows_the_policies(bag: Any, dag_id: str) -> None:
    for task in tasks_of(bag, dag_id):
        assert task.doc_md, task.task_id
        assert task.retries >= 1, task.task_id
        assert task.retry_exponential_backoff, task.task_id
        assert task.max_retry_delay, task.task_id
        assert timedelta(0) < task.execution_timeout <= bag.dags[dag_id].dagrun_timeout, task.task_id
        assert task.on_failure_callback, task.task_id
        assert task.queue in ("cpu", "gpu"), task.task_id
        assert (task.pool == "gpu") == (task.queue == "gpu"), task.task_id
        requested = option(task, "resources")
        cpus, ram, gpus = (
            requested[name] if isinstance(requested, dict) else getattr(requested, name).qty for name in NEEDS
        )
        assert cpus >= 1, task.task_id
        assert ram >= 1024, task.task_id
        assert (gpus > 0) == (task.queue == "gpu"), task.task_id


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_every_task_runs_a_command_that_exists(bag: Any, dag_id: str) -> None:
    for task in tasks_of(bag, dag_id):
        module = option(task, "module")
        assert (ROOT / Path(*module.split(".")).with_suffix(".py")).exists(), module
