"""Fetches the models of a commit: identifiers, target and draft, verified by the digests in its dvc.lock.

Weights are stored once, in the DVC remote. Evaluation of the champion, batch jobs and serving fetch them here into a
folder that is written once and shared.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.files import replacing
from atspeed_core.settings import DecodingConfig
from tasks.addresses import masked
from tasks.deployment.checkout import repository_address
from tasks.environment import DVC_REMOTE, REPOSITORY, Deployment
from tasks.paths import DRAFTS, IDENTIFIERS, PARAMS, PLANS, PROCESSED, TARGET

if TYPE_CHECKING:  # dvc and torch take seconds to import
    from dvc.api import DVCFileSystem

    from atspeed_core.recommender import Recommender

PLAN = "plan.json"  # early commits have none

log = logging.getLogger(__name__)


def paths_of(method: str, *, with_data: bool = False) -> dict[str, Path]:
    """Name in a fetched folder -> path in a commit, of every part of a recommender with the draft of `method`."""
    paths = {"identifiers": IDENTIFIERS, "target": TARGET, "draft": DRAFTS / method, PLAN: PLANS / f"{method}.json"}
    return {**paths, "processed": PROCESSED} if with_data else paths


def fetch_model(
    commit: str,
    method: str,
    folder: Path,
    repository: str,
    *,
    with_data: bool = False,
    remote: str | None = None,
) -> Path:
    """Fetch the models of a commit, once: identifiers/, target/, draft/, params.yaml and, on request, processed/.

    Args:
        commit: git commit (full hash) with dvc.lock and params.yaml.
        method: of the draft.
        folder: of all fetched models; a second call with the same arguments returns at once.
        repository: git repository with the commit, a folder or an address.
        with_data: whether to fetch the processed data of the commit as well.
        remote: address of the DVC remote; None: the one that the repository is configured with.

    Returns:
        The folder of this commit and method.

    Raises:
        UserError: the repository has no such commit, the commit no such method, or the data are not in the remote or
            differ from the digests in dvc.lock.
        TemporaryError: repository or remote do not answer.
    """
    final = folder / "-".join([commit, method, *(["data"] if with_data else [])])
    with _one_at_a_time(folder / f".{final.name}.lock"):
        if not final.exists():
            log.info("fetching %s of %s from %s", method, commit, masked(repository))
            with replacing(final) as temporary, _dvc_errors(commit, repository):
                _fetch(_open(repository, commit, remote), paths_of(method, with_data=with_data), temporary)
    return final


def fetch_for_deployment(commit: str, method: str, *, with_data: bool = False) -> Path:
    """Fetch the models of a commit from the deployment's repository and DVC remote; see `fetch_model`."""
    deployment = Deployment.from_environment()
    address, remote = repository_address(), deployment.dvc_remote
    return fetch_model(commit, method, deployment.models, address, with_data=with_data, remote=remote)


def locked_digests(lock: str) -> dict[str, str]:
    """Path -> md5 of all outputs in the text of a dvc.lock; that of a folder ends in ".dir"."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def tree_md5(path: Path) -> str:
    """The md5 of a file or folder, as DVC writes it into dvc.lock."""
    if path.is_file():
        return _file_md5(path)
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _file_md5(path / name), "relpath": name} for name in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def decoding(params: Path) -> DecodingConfig:
    """How the recommender of a params.yaml decodes; the file may be of another version of the code."""
    return DecodingConfig.from_params(yaml.safe_load(params.read_text(encoding="utf-8")))


def load_recommender(folder: Path, config: DecodingConfig | None = None) -> "Recommender":
    """The recommender in a folder that `fetch_model` made; `config`: default: that of its params.yaml."""
    from atspeed_core.recommender import Recommender

    return Recommender.load(
        target=folder / "target",
        draft=folder / "draft",
        identifiers=folder / "identifiers" / "identifiers.json",
        plan=folder / PLAN if (folder / PLAN).exists() else None,
        decoding=config or decoding(folder / PARAMS),
    )


def _open(repository: str, commit: str, remote: str | None) -> "DVCFileSystem":
    from dvc.api import DVCFileSystem

    config: dict[str, Any] = {"core": {"analytics": False}}
    if (cache := Deployment.from_environment().dvc_cache).is_dir():
        config["cache"] = {"dir": str(cache)}
    if remote:
        return DVCFileSystem(repository, rev=commit, config=config, remote="atspeed", remote_config={"url": remote})
    return DVCFileSystem(repository, rev=commit, config=config)


def _fetch(files: "DVCFileSystem", paths: dict[str, Path], folder: Path) -> None:
    """Copy `paths` (name in `folder` -> path in the commit) and params.yaml, and compare them with dvc.lock."""
    folder.mkdir()
    (folder / PARAMS).write_bytes(files.cat_file(str(PARAMS)))
    digests = locked_digests(files.cat_file("dvc.lock").decode())
    for name, path in paths.items():
        if name == PLAN and str(path) not in digests:
            continue
        if str(path) not in digests:
            raise UserError(f"dvc.lock of the commit does not contain {path}; choose a commit whose stages all ran")
        files.get(str(path), str(folder / name), recursive=True)
        if tree_md5(folder / name) != digests[str(path)]:
            raise UserError(
                f"{path}: the content in the DVC cache or remote differs from dvc.lock ({digests[str(path)]}); "
                "push it again from where it was produced: dvc push"
            )


@contextmanager
def _dvc_errors(commit: str, repository: str) -> Iterator[None]:
    from dvc.exceptions import DvcException
    from dvc.scm import CloneError, RevError

    where = f"{masked(repository)} at {commit}"
    try:
        yield
    except CloneError as error:
        raise TemporaryError(f"{masked(repository)}: cannot be cloned ({masked(str(error))})") from None
    except RevError:
        raise UserError(f"{where}: no such commit; fetch it into the repository, or correct {REPOSITORY}") from None
    except (FileNotFoundError, DvcException) as error:
        remedy = f"push it from where it was produced (dvc push), or correct {DVC_REMOTE}"
        raise UserError(f"{where}: not in the DVC remote ({masked(str(error))}); {remedy}") from None


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Make other processes that fetch the same models wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _file_md5(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
