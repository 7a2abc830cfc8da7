"""`mlflow models serve` answers with the lists of `Recommender`."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from atspeed_core.recommender import Recommender
from atspeed_core.settings import DecodingConfig
from local_services.servers import LOOPBACK, Server, answers, free_port
from tests.mlflow_server import mlflow_server
from tests.nightly.registered_nights import DATASET, HISTORIES, ROOT, Deployment, K

MODEL = f"models:/atspeed-{DATASET}-recommender@champion"
EXACT_FIGURES = ("items", "accepted_steps", "target_calls")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Recommender]]:
    """Address of a served champion, and the recommender in the checkout that it was made in."""
    folder = tmp_path_factory.mktemp("serving")
    with mlflow_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        deployment = Deployment.make(folder, server)
        for name, value in deployment.environment.items():
            patch.setenv(name, value)
        checkout = deployment.night("2026-01-01")
        version = ["--dataset", DATASET, "--version", "1"]
        for name, arguments, cwd in (
            ("nightly.register_challenger", [], checkout),
            ("promotion.gate", version, None),
            ("promotion.promote", version, None),
        ):
            done = deployment.call(name, *arguments, cwd=cwd)
            assert done.code == 0, done.log
        ours = load(checkout)
        with serve(deployment, folder / "elsewhere") as address:
            yield address, ours


def load(checkout: Path) -> Recommender:
    return Recommender.load(
        checkout / "models/target",
        checkout / "models/drafts/atspeed_s",
        checkout / "data/identifiers/identifiers.json",
        plan=checkout / "models/plans/atspeed_s.json",
        device="cpu",
        decoding=DecodingConfig(draft_beams=8, draft_steps=2, exclude_history=True),
    )


@contextmanager
def serve(deployment: Deployment, folder: Path) -> Iterator[str]:
    """`mlflow models serve` in a folder of its own, knowing no more than the tracking server."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", MODEL, "--env-manager", "local"]
    command += ["--host", LOOPBACK, "--port", str(port)]
    unknown = {name: "" for name in deployment.environment if name.startswith("ATSPEED_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **unknown, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = Server("mlflow models serve", command, environment, folder / "log", folder=folder)
    try:
        server.start()
        server.wait_for(lambda: answers(f"http://{LOOPBACK}:{port}/ping"))
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.stop()


def ask(address: str, histories: list[list[str]], **params: Any) -> list[dict[str, Any]]:
    rows = {"dataframe_split": {"columns": ["history"], "data": [[history] for history in histories]}}
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps({**rows, **({"params": params} if params else {})}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer)["predictions"])


@pytest.mark.parametrize(
    "params",
    [
        {"k": K},
        {"k": 5, "verification": "none"},
        {"k": 4, "verification": "relaxed"},
        {"k": K, "allowed_items": ["3", "4", "9", "17", "not in the catalog"]},
    ],
)
def test_the_served_lists_are_those_of_the_recommender(served: tuple[str, Recommender], params: dict[str, Any]) -> None:
    address, recommender = served
    answers, ours = ask(address, HISTORIES, **params), recommender.recommend(HISTORIES, **params)
    for name in EXACT_FIGURES:
        assert [answer[name] for answer in answers] == getattr(ours, name), name
    for answer, scores in zip(answers, ours.scores, strict=True):
        assert answer["scores"] == pytest.approx(scores, abs=1e-4)  # the server's threads sum in another order
    if "allowed_items" in params:
        assert all(set(answer["items"]) <= {"3", "4", "9", "17"} for answer in answers)
    else:
        assert all(len(answer["items"]) == params["k"] for answer in answers)


@pytest.mark.parametrize(
    ("history", "params", "message"),
    [
        (["nobody"], {"k": K}, "the history holds no known item"),
        (["1"], {"k": K, "verification": "fast"}, "known: exact_sampling, none, relaxed, strict"),
        (["1"], {"verification": "relaxed"}, "k = 10: the draft proposes only 8 beams"),  # k is 10 where none is given
        (["1"], {"k": "many"}, "many"),
    ],
)
def test_a_mistake_in_a_request_is_answered_with_what_is_wrong(
    served: tuple[str, Recommender], history: list[str], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(served[0], [history], **params)
    assert refused.value.code == 400
    assert message in refused.value.read().decode()
