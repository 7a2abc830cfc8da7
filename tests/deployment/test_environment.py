"""The environment of a deployment: one declaration, the documentation and the code that reads it."""

import ast
import os
import re
from pathlib import Path

import pytest

from tasks import environment
from tasks.environment import MLFLOW_CLIENT, VARIABLES, Deployment

ROOT = Path(__file__).resolve().parents[2]
DECLARATION = ROOT / "tasks" / "environment.py"
OURS = re.compile(r"(ATSPEED|MLFLOW)_[A-Z_]+|DVC_EXP_NAME")
# Settings of servers that local_services starts, which nobody has to set.
OF_A_SERVER = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"}


def documented() -> dict[str, tuple[str, str]]:
    """Name -> meaning and default of every variable in a table of docs/operations.md."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.+) \| (.+) \|$", (ROOT / "docs" / "operations.md").read_text(), flags=re.MULTILINE
    )
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: (meaning, default) for name, meaning, default in rows}


def literals(folder: str) -> set[str]:
    """The variables of ours that the code below a folder names."""
    values: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        values |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {value for value in values if OURS.fullmatch(value)}


def is_environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def names_read(path: Path) -> list[str]:
    """What `os.environ[...]`, its `get` and `pop`, `os.getenv(...)` and `... in os.environ` ask for, as code."""
    read = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Subscript(value=value, slice=key, ctx=ast.Load()) if is_environ(value):
                read.append(ast.unparse(key))
            case ast.Call(func=ast.Attribute(value=value, attr="get" | "pop"), args=[key, *_]) if is_environ(value):
                read.append(ast.unparse(key))
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[key, *_]):
                read.append(ast.unparse(key))
            case ast.Compare(left=key, comparators=[value]) if is_environ(value):
                read.append(ast.unparse(key))
    return read


def test_the_documentation_lists_what_is_declared_in_the_same_words() -> None:
    declared = {variable.name: (variable.meaning, variable.default) for variable in VARIABLES}
    assert len(declared) == len(VARIABLES)
    assert {name: row for name, row in documented().items() if name in declared} == declared


def test_the_documentation_lists_every_variable_that_the_dags_and_the_local_services_read() -> None:
    named = literals("dags") | literals("local_services")
    assert {"ATSPEED_PYTHON", "ATSPEED_CRON", "MLFLOW_TRACKING_URI"} <= named
    assert named - OF_A_SERVER <= documented().keys()


def test_nothing_is_documented_that_nobody_reads() -> None:
    assert documented().keys() <= {variable.name for variable in VARIABLES} | literals("dags")


def test_only_the_declaration_names_a_variable() -> None:
    declared = {variable.name for variable in VARIABLES}
    assert literals("tasks") == declared
    for path in (ROOT / "tasks").rglob("*.py"):
        if path != DECLARATION:
            assert not [name for name in declared if f'"{name}"' in path.read_text()], path


def test_only_the_declaration_reads_a_variable() -> None:
    """Others may read what belongs to the shell (PATH), DVC, make or a cluster's scheduler, by its literal name."""
    read = {path: names_read(path) for path in (ROOT / "tasks").rglob("*.py") if path != DECLARATION}
    assert {name for names in read.values() for name in names} <= {"'PATH'", "'DVC_STAGE'", "'MAKELEVEL'"}


def test_the_dags_read_variables_by_their_literal_names() -> None:
    """Else the comparison with the documentation would miss them."""
    read = [
        name
        for folder in ("dags", "local_services")
        for path in (ROOT / folder).rglob("*.py")
        for name in names_read(path)
    ]
    assert read
    assert all(name.startswith("'") for name in read)


def test_defaults_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = Deployment.from_environment({"ATSPEED_DVC_REMOTE": "", "ATSPEED_REVISION": ""})
    assert bare.home == tmp_path / ".atspeed"
    assert bare.dvc_remote == str(tmp_path / ".atspeed" / "dvc-remote")
    assert (bare.revision, bare.tracking_uri, bare.answer) == (None, None, None)
    assert bare.store_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert bare.dataset == environment.DEFAULT_DATASET


def test_the_remote_and_the_shared_folder_are_those_that_are_named(tmp_path: Path) -> None:
    home = {"ATSPEED_HOME": str(tmp_path)}
    assert Deployment.from_environment(home).dvc_remote == str(tmp_path / "dvc-remote")
    assert Deployment.from_environment({**home, "ATSPEED_DVC_REMOTE": "s3://bucket"}).dvc_remote == "s3://bucket"


def test_a_checkout_knows_the_folder_that_it_lies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkouts" / "night"
    checkout.mkdir(parents=True)
    monkeypatch.chdir(checkout)
    assert Deployment.from_environment({}).home == checkout / ".atspeed"
    (checkout / "night.json").touch()
    assert Deployment.from_environment({}).home == tmp_path
    assert Deployment.from_environment({"ATSPEED_HOME": "/shared"}).home == Path("/shared")


def test_the_client_of_mlflow_gets_the_documented_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MLFLOW_CLIENT:
        monkeypatch.setenv(name, "")  # so that it is restored at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    environment.set_mlflow_defaults()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    for name, value in MLFLOW_CLIENT.items():
        assert os.environ[name] in (value, "99")
        assert value in documented()[name][1]
