"""The environment of a deployment: every variable that a command reads, with its meaning and default.

No other module of tasks/ reads one of them, and docs/operations.md lists them with the same words;
tests/deployment/test_environment.py checks both.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.paths import NIGHT

HOME, REPOSITORY, REVISION = "ATSPEED_HOME", "ATSPEED_REPOSITORY", "ATSPEED_REVISION"
DVC_REMOTE, DATASET = "ATSPEED_DVC_REMOTE", "ATSPEED_DATASET"
GIT_NAME, GIT_EMAIL = "ATSPEED_GIT_NAME", "ATSPEED_GIT_EMAIL"
TRACKING_URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
RUN_ID, ANSWER, SENDER, OWNER = "ATSPEED_RUN_ID", "ATSPEED_ANSWER", "ATSPEED_SENDER", "ATSPEED_OWNER"
DVC_EXPERIMENT = "DVC_EXP_NAME"

CHECKOUTS = "checkouts"  # in the home
DEFAULT_DATASET, DEFAULT_EXPERIMENT = "ml-latest-small-2016", "atspeed-nightly"
DEFAULT_GIT_NAME, DEFAULT_GIT_EMAIL = "atspeed nightly", "nightly@atspeed.invalid"
MLFLOW_CLIENT = {  # settings of MLflow's own client, where the environment has no other value
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Variable:
    """A variable as docs/operations.md lists it; `default` in Markdown."""

    name: str
    meaning: str
    default: str


VARIABLES = (
    Variable(
        HOME, "folder that all workers share: checkouts, DVC cache, models, feeds, recommendations", "`.atspeed/`"
    ),
    Variable(REPOSITORY, "git repository that nights clone and tag (path or URL)", "the project"),
    Variable(REVISION, "branch, tag or commit of the code", "`HEAD`"),
    Variable(DATASET, "data set of the deployment, a file in `presets/`", f"`{DEFAULT_DATASET}`"),
    Variable(DVC_REMOTE, "address of the DVC remote, without a password", f"`${HOME}/dvc-remote`"),
    Variable(GIT_NAME, "author of the nights' commits", f"`{DEFAULT_GIT_NAME}`"),
    Variable(GIT_EMAIL, "the author's e-mail address", f"`{DEFAULT_GIT_EMAIL}`"),
    Variable(TRACKING_URI, "the MLflow server", "required by nights; otherwise `mlflow.db` in the project"),
    Variable(EXPERIMENT, "MLflow experiment of all runs", f"`{DEFAULT_EXPERIMENT}`"),
    Variable("MLFLOW_HTTP_REQUEST_TIMEOUT", "seconds until a request to MLflow counts as failed", "30"),
    Variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "retries of such a request", "2"),
    Variable("MLFLOW_DISABLE_TELEMETRY", "whether MLflow reports its use to its developers", "`true`: it does not"),
    Variable("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "progress bars in the log", "`false`"),
    Variable("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "no address of each run in the log", "`true`"),
    Variable(RUN_ID, "pipeline run to which the records of a stage belong", "the `dvc` process above the stage"),
    Variable(ANSWER, "file for the answer of a command; set by the Airflow task", "the answer is printed"),
    Variable(SENDER, "which command sends the records of the stages that it starts", "each stage sends its own"),
    Variable(OWNER, "process that a process belongs to and ends with", "none"),
    Variable(DVC_EXPERIMENT, "name of the experiment that a stage belongs to; set by DVC and by sweeps", "none"),
)


@dataclass(frozen=True)
class Deployment:
    """What the environment specifies, with the defaults filled in.

    Attributes:
        home: folder that all workers share.
        repository: git repository that nights clone, a path or a URL; None: the current folder.
        revision: branch, tag or commit of the code; None: HEAD.
        dataset: data set of the deployment.
        named_dvc_remote: address of the DVC remote; None: `dvc_remote` in `home`.
        git_name: author of commits.
        git_email: the author's e-mail address.
        tracking_uri: the MLflow server; None: a file in the project.
        experiment: MLflow experiment of all runs.
        run_id: pipeline run that a stage belongs to; None: started by hand or by `dvc repro`.
        answer: file for a command's answer; None: the answer is printed.
        sender: the command that sends the records of its stages; None: each stage sends its own.
        dvc_experiment: name of the experiment that a stage belongs to; None: none.
    """

    home: Path
    repository: str | None
    revision: str | None
    dataset: str
    named_dvc_remote: str | None
    git_name: str
    git_email: str
    tracking_uri: str | None
    experiment: str
    run_id: str | None
    answer: Path | None
    sender: str | None
    dvc_experiment: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Deployment":
        """Read the variables; an empty one counts as absent."""

        def value(name: str) -> str | None:
            return environment.get(name) or None

        answer = value(ANSWER)
        return cls(
            home=Path(value(HOME) or default_home()).absolute(),
            repository=value(REPOSITORY),
            revision=value(REVISION),
            dataset=value(DATASET) or DEFAULT_DATASET,
            named_dvc_remote=value(DVC_REMOTE),
            git_name=value(GIT_NAME) or DEFAULT_GIT_NAME,
            git_email=value(GIT_EMAIL) or DEFAULT_GIT_EMAIL,
            tracking_uri=value(TRACKING_URI),
            experiment=value(EXPERIMENT) or DEFAULT_EXPERIMENT,
            run_id=value(RUN_ID),
            answer=Path(answer) if answer else None,
            sender=value(SENDER),
            dvc_experiment=value(DVC_EXPERIMENT),
        )

    @property
    def dvc_remote(self) -> str:
        """Address of the DVC remote of all nights."""
        return self.named_dvc_remote or str(self.home / "dvc-remote")

    @property
    def dvc_cache(self) -> Path:
        """The DVC cache that all checkouts share."""
        return self.home / "dvc-cache"

    @property
    def checkouts(self) -> Path:
        """The folder of the private checkouts."""
        return self.home / CHECKOUTS

    @property
    def nights(self) -> Path:
        """The folder that keeps the facts of every night."""
        return self.home / "nights"

    @property
    def models(self) -> Path:
        """The folder of the models that were fetched from a commit."""
        return self.home / "models"

    @property
    def sweeps(self) -> Path:
        """The folder of the sweeps' results."""
        return self.home / "sweeps"

    def recommendations(self, dataset: str) -> Path:
        """The folder of the lists for all users of a data set."""
        return self.home / "recommendations" / dataset

    def feed(self, dataset: str, folder: str | None) -> Path:
        """The folder of a data set's days; `folder` of the preset is relative to `home`."""
        return self.home / (folder or f"feeds/{dataset}")

    @property
    def store_uri(self) -> str:
        """Where MLflow keeps its runs: the server, or a sqlite file in the project."""
        return self.tracking_uri or f"sqlite:///{Path('mlflow.db').resolve()}"


def default_home() -> Path:
    """The deployment's folder around the current checkout; outside of one, `.atspeed/` in the current folder."""
    folder = Path.cwd()
    in_checkout = NIGHT.exists() and folder.parent.name == CHECKOUTS
    return folder.parent.parent if in_checkout else Path(".atspeed")


def set_mlflow_defaults() -> None:
    """Set the variables of MLflow's client that the environment lacks; before MLflow is imported."""
    for name, value in MLFLOW_CLIENT.items():
        os.environ.setdefault(name, value)
