"""Registers the night's target, draft and recommender in MLflow, with everything that the gate needs.

The weights stay in the DVC remote: the versions of target and draft are external models that specify commit, path and
digest, and the recommender is a models-from-code file that fetches them by commit.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atspeed_core.data.sequences import load_full_examples
from atspeed_core.evaluation.inputs import read_stage_json
from atspeed_core.identifiers.catalog import Catalog
from tasks.addresses import as_url
from tasks.deployment.model_registry import (
    CHALLENGER,
    CHAMPION,
    COMMIT,
    DATASET,
    METHOD,
    PARTS,
    PREVIOUS,
    RECOMMENDER,
    RUN,
    set_alias,
    version_of,
    version_tag,
)
from tasks.deployment.weights import fetch_for_deployment, paths_of
from tasks.deployment.workflow import NothingToDo, answer, command
from tasks.mlflow_store import mlflow_client
from tasks.nightly.challenger import COLUMNS, Challenger, description, manifest, read_challenger
from tasks.nightly.night import load_night
from tasks.paths import IDENTIFIERS, PROCESSED
from tasks.promotion import evidence
from tasks.record import flat_params
from tasks.serving import schema

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

SECTION = {"target": "finetune_target", "draft": "align_draft"}  # of params.yaml

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main() -> None:
    """Register the night's models and store the gate's evidence (in a night's checkout, after commit_night)."""
    with command("register_challenger"):
        night = load_night()
        if night.dry_run:
            raise NothingToDo("dry run: nothing is registered")
        challenger = read_challenger(night)
        with mlflow_client() as client:
            version = register(client, challenger)
        answer({"dataset": night.dataset, "version": version, "recommender": challenger.name(RECOMMENDER)})


def register(client: "MlflowClient", challenger: Challenger) -> str:
    """Register the three versions, once; returns the recommender's.

    The recommender's version is created last, with all its tags: an attempt after a kill finds none and resumes.
    """
    upload_evidence(client, challenger)
    registered = find_version(client, challenger, RECOMMENDER)
    if registered is None:
        fetch_for_deployment(challenger.commit, challenger.method)  # fails here rather than when it is served
        log_dataset(client, challenger)
        parts = {part: register_part(client, challenger, part) for part in PARTS}
        tags = {version_tag(part): version for part, version in parts.items()}
        registered = create_version(client, challenger, RECOMMENDER, log_recommender(client, challenger), tags)
    version, name = str(registered.version), challenger.name(RECOMMENDER)
    if version not in (version_of(client, name, CHAMPION), version_of(client, name, PREVIOUS)):
        set_alias(client, challenger.night.dataset, CHALLENGER, version)
    log.info("%s version %s: %s of %s", name, version, challenger.method, challenger.night.tag)
    return version


def upload_evidence(client: "MlflowClient", challenger: Challenger) -> None:
    """Put the gate's evidence into the parent run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / evidence.FOLDER
        evidence.collect(folder, challenger.method, challenger.gate)
        client.log_artifacts(challenger.run, str(folder), evidence.FOLDER)


def find_version(client: "MlflowClient", challenger: Challenger, part: str) -> "ModelVersion | None":
    """The version that an earlier attempt registered for this run, commit and method."""
    wanted = {name: challenger.tags[name] for name in (RUN, COMMIT, METHOD)}
    conditions = [f"name = '{challenger.name(part)}'", f"tags.`{RUN}` = '{challenger.run}'"]
    versions = client.search_model_versions(" and ".join(conditions))
    return next((version for version in versions if wanted.items() <= version.tags.items()), None)


def create_version(
    client: "MlflowClient", challenger: Challenger, part: str, model: "LoggedModel", tags: dict[str, str]
) -> "ModelVersion":
    """Register a logged model as a version of `part`."""
    from mlflow.exceptions import MlflowException

    name = challenger.name(part)
    try:
        client.create_registered_model(name, {DATASET: challenger.night.dataset})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        f"models:/{model.model_id}",
        run_id=challenger.run,
        tags={**challenger.tags, **tags},
        description=description(challenger),
        model_id=model.model_id,
    )


def register_part(client: "MlflowClient", challenger: Challenger, part: str) -> str:
    """The version of target or draft: an external model with commit, path and digest of its weights."""
    if registered := find_version(client, challenger, part):
        return str(registered.version)
    path = paths_of(challenger.method)[part]
    source = {"atspeed.path": str(path), "atspeed.md5": challenger.digests[str(path)]}
    return str(create_version(client, challenger, part, log_part(challenger, part, path, source), source).version)


def log_part(challenger: Challenger, part: str, path: Path, tags: dict[str, str]) -> "LoggedModel":
    """Log target or draft as an external model, with its signature and an input example."""
    import mlflow
    from mlflow.models import Model

    model = mlflow.create_external_model(
        name=challenger.name(part),
        source_run_id=challenger.run,
        tags={**challenger.tags, **tags},
        params=flat_params(challenger.params, [SECTION[part], "prepare_data.max_history"]),
        model_type=part,
        experiment_id=mlflow.get_run(challenger.run).info.experiment_id,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder, metadata = Path(temporary), Model.load(f"models:/{model.model_id}")
        metadata.signature = schema.weights_signature(path)
        history = load_full_examples(PROCESSED, "test")[0].history
        example = schema.weights_example(path, history, challenger.params.prepare_data.max_history)
        metadata.saved_input_example_info = schema.save_example(example, folder)
        metadata.save(folder / "MLmodel")
        mlflow.MlflowClient().log_model_artifacts(model.model_id, str(folder))
    return model


def log_recommender(client: "MlflowClient", challenger: Challenger) -> "LoggedModel":
    """Log the recommender: code that fetches the weights, its manifest, and its figures."""
    import mlflow

    config, catalog = manifest(challenger), Catalog.load(IDENTIFIERS / "identifiers.json")
    model = client.create_logged_model(
        experiment_id=client.get_run(challenger.run).info.experiment_id,
        name=challenger.name(RECOMMENDER),
        source_run_id=challenger.run,
        tags=challenger.tags,
        params=flat_params(challenger.params, ["evaluate", "prepare_data.max_history"]),
        model_type=RECOMMENDER,
    )
    mlflow.pyfunc.log_model(
        model_id=model.model_id,
        python_model=str(schema.MODEL_FILE),
        model_config=config,
        signature=schema.recommender_signature(),
        input_example=schema.recommender_example(load_full_examples(PROCESSED, "test"), catalog),
        pip_requirements=[requirement(config["repository"], challenger.commit)],
    )
    log_figures(client, challenger, model.model_id)
    return client.get_logged_model(model.model_id)


def requirement(repository: str, commit: str) -> str:
    """The pip requirement of an environment that serves the recommender: this project at the commit."""
    return f"atspeed-nightly @ git+{as_url(repository)}@{commit}"


def log_dataset(client: "MlflowClient", challenger: Challenger) -> None:
    """Log the processed data of the night as the parent run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, digest = challenger.data
    source = {"commit": challenger.commit, "path": str(PROCESSED)}
    stats = read_stage_json(PROCESSED / "stats.json", "prepare_data")
    profile = {key: stats[key] for key in ("users", "items", "interactions") if key in stats}
    dataset = Dataset(name, digest, source_type="dvc", source=json.dumps(source), profile=json.dumps(profile))
    client.log_inputs(challenger.run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def log_figures(client: "MlflowClient", challenger: Challenger, model_id: str) -> None:
    """Log the figures at the K of the gate, linked to the recommender and the data."""
    name, digest = challenger.data
    for figure in (name for name in COLUMNS if name in challenger.judged):
        client.log_metric(
            challenger.run,
            f"challenger/{figure}",
            challenger.judged[figure],
            step=challenger.gate.k,
            dataset_name=name,
            dataset_digest=digest,
            model_id=model_id,
        )


if __name__ == "__main__":
    app()
