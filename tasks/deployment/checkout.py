"""A night's private checkout: its folder, and the git behind it."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

from atspeed_core.errors import TemporaryError, UserError
from tasks.deployment.preset import HOME, home
from tasks.tracking import masked

REPOSITORY, REVISION = "ATSPEED_REPOSITORY", "ATSPEED_REVISION"  # of the deployment: path or URL; branch, tag or commit
DATASET, DEFAULT_DATASET = "ATSPEED_DATASET", "ml-latest-small-2016"
STATE = Path(".atspeed")  # what run_stage and commit_night keep in the checkout, beside night.json
GIT_SECONDS = 600  # a clone or push that takes longer hangs
LONGEST_NAME = 100
OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set where a hook calls us


def checkout_of(run_id: str) -> Path:
    """The folder in which a run works; it is removed when the night was green."""
    return home() / "checkouts" / safe_name(run_id)


def facts_of(run_id: str) -> Path:
    """The folder that keeps night.json of a run for good, so that a run that is cleared later finds the same facts."""
    return home() / "nights" / safe_name(run_id)


def safe_name(run_id: str) -> str:
    """A file name for a run; two runs never share one."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id).lstrip(".")[:LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def tag_prefix(dataset: str) -> str:
    """What the tags of a data set's nights begin with; the date follows."""
    usual = os.environ.get(DATASET) or DEFAULT_DATASET
    return "nightly/" if dataset == usual else f"nightly-{dataset}/"


def reach_home() -> None:
    """Make sure that the shared folder can be written.

    Raises:
        TemporaryError: it cannot, for the time being at least.
    """
    try:
        for folder in ("checkouts", "nights"):
            (home() / folder).mkdir(parents=True, exist_ok=True)
        probe = home() / "checkouts" / f".probe-{os.getpid()}"
        probe.write_text("can be written")
        probe.unlink()
    except OSError as error:
        raise TemporaryError(f"{HOME} {home()} cannot be written: {error.strerror or error}") from None


def clone(folder: Path) -> None:
    """Clone the deployment's repository, with all tags, into `folder`; nothing is checked out yet.

    Raises:
        UserError: the path is no git repository.
        TemporaryError: it cannot be read now.
    """
    source = os.environ.get(REPOSITORY) or "."
    if _is_path(source):
        source = str(Path(source).absolute())
        if git_if_it_can("rev-parse", "--git-dir", folder=Path(source)) is None:
            raise UserError(f"{source}: no git repository that can be read; set {REPOSITORY} to one")
    git("clone", "--quiet", "--no-checkout", "--config", "gc.auto=0", "--", source, str(folder))


def check_out(revision: str | None, folder: Path) -> str:
    """Check out `revision` (None: the repository's HEAD), detached; returns the commit.

    Raises:
        UserError: the repository has no such revision.
    """
    commit = commit_named(revision or "HEAD", folder)
    if commit is None:
        raise UserError(
            f"revision '{revision}': no branch, tag or commit of the repository; known branches: git branch"
        )
    git("checkout", "--quiet", "--detach", commit, folder=folder)
    return commit


def commit_named(revision: str, folder: Path = Path()) -> str | None:
    """The commit that a branch of origin, a tag or a commit id stands for; None: there is no such thing."""
    if revision.startswith("-"):
        return None
    names = (f"refs/remotes/origin/{revision}", revision)
    found = (git_if_it_can("rev-parse", "--verify", "--quiet", f"{n}^{{commit}}", folder=folder) for n in names)
    return next(filter(None, found), None)


def night_before(dataset: str, date: str, folder: Path) -> str | None:
    """The data set's tag with the greatest date before `date`; None: there is none."""
    prefix = tag_prefix(dataset)
    tags = git("tag", "--list", f"{prefix}*", folder=folder).split()
    dates = [tag.removeprefix(prefix) for tag in tags]
    earlier = [day for day in dates if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and day < date]
    return f"{prefix}{max(earlier)}" if earlier else None


def git(*arguments: str, folder: Path = Path(), environment: dict[str, str] | None = None) -> str:
    """What a git command prints.

    Raises:
        TemporaryError: it fails; what git is asked for here fails when a server, a disk or a right is missing.
    """
    try:
        done = _git(arguments, folder, environment or {})
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"git {arguments[0]}: no end after {GIT_SECONDS} s") from None
    if done.returncode:
        said = masked("; ".join(done.stderr.strip().splitlines()[-3:]))
        raise TemporaryError(f"git {arguments[0]}: {said or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def git_if_it_can(*arguments: str, folder: Path = Path()) -> str | None:
    """What a git command prints; None where it fails."""
    try:
        done = _git(arguments, folder, {})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def _git(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    ours = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # no question that nobody answers; messages as we quote them
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**ours, **quiet, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
    )


def _is_path(source: str) -> bool:
    """Whether a repository is named by a path: no URL, and no host:path."""
    return "://" not in source and ":" not in source.split("/")[0]
