"""The private checkouts of nights and experiments: their folders, and how they are made."""

import hashlib
import os
import re
from pathlib import Path

from atspeed_core.errors import TemporaryError, UserError
from tasks.addresses import is_path, without_credentials
from tasks.environment import HOME, REPOSITORY, Deployment
from tasks.git import commit_of, git, git_if_possible
from tasks.paths import NIGHT

STATE = Path(".atspeed")  # files of run_stage and commit_night in the checkout
LONGEST_NAME = 100


def checkout_of(run_id: str) -> Path:
    """The checkout of a run; it is removed after a green night."""
    return Deployment.from_environment().checkouts / safe_name(run_id)


def facts_of(run_id: str) -> Path:
    """The folder that keeps night.json of a run, so that a run that is cleared later has the same facts."""
    return Deployment.from_environment().nights / safe_name(run_id)


def safe_name(run_id: str) -> str:
    """A file name for a run, different for every run."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id).lstrip(".")[:LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def tag_prefix(dataset: str) -> str:
    """The prefix of the tags of a data set's nights, before the date."""
    return "nightly/" if dataset == Deployment.from_environment().dataset else f"nightly-{dataset}/"


def reach_home() -> None:
    """Check that the shared folder can be written.

    Raises:
        TemporaryError: it cannot be written now.
    """
    deployment = Deployment.from_environment()
    try:
        for folder in (deployment.checkouts, deployment.nights):
            folder.mkdir(parents=True, exist_ok=True)
        probe = deployment.checkouts / f".probe-{os.getpid()}"
        probe.write_text("writable")
        probe.unlink()
    except OSError as error:
        raise TemporaryError(f"{HOME} {deployment.home} cannot be written: {error.strerror or error}") from None


def repository_address() -> str:
    """The deployment's git repository, where a model's commit can be fetched from; else the current folder.

    In a night's checkout, which does not outlive the night, it is where the checkout was cloned from. An address is
    returned without user name and password; git's own credential helpers know those.
    """
    origin = git_if_possible("remote", "get-url", "origin") if NIGHT.exists() else None
    address = Deployment.from_environment().repository or origin or "."
    return str(Path(address).absolute()) if Path(address).exists() else without_credentials(address)


def clone(folder: Path) -> None:
    """Clone the deployment's repository, with all tags, into `folder`, without a checkout.

    Raises:
        UserError: the path is not a git repository.
        TemporaryError: it cannot be read now.
    """
    source = Deployment.from_environment().repository or "."
    if is_path(source):
        source = str(Path(source).absolute())
        if git_if_possible("rev-parse", "--git-dir", folder=Path(source)) is None:
            raise UserError(f"{source}: not a readable git repository; set {REPOSITORY} to one")
    git("clone", "--quiet", "--no-checkout", "--config", "gc.auto=0", "--", source, str(folder))


def check_out(revision: str | None, folder: Path) -> str:
    """Check out `revision` (None: the repository's HEAD), detached; returns the commit.

    Raises:
        UserError: the repository has no such revision.
    """
    commit = commit_named(revision or "HEAD", folder)
    if commit is None:
        raise UserError(
            f"revision '{revision}': not a branch, tag or commit of the repository; list the branches with: git branch"
        )
    git("checkout", "--quiet", "--detach", commit, folder=folder)
    return commit


def commit_named(revision: str, folder: Path = Path()) -> str | None:
    """The commit that a branch of origin, a tag or a commit id names; None: there is none."""
    if revision.startswith("-"):
        return None
    return commit_of(f"refs/remotes/origin/{revision}", folder) or commit_of(revision, folder)


def night_before(dataset: str, date: str, folder: Path) -> str | None:
    """The data set's tag with the latest date before `date`; None: there is none."""
    prefix = tag_prefix(dataset)
    tags = git("tag", "--list", f"{prefix}*", folder=folder).split()
    dates = [tag.removeprefix(prefix) for tag in tags]
    earlier = [day for day in dates if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and day < date]
    return f"{prefix}{max(earlier)}" if earlier else None
