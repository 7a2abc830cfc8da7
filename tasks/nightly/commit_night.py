"""Commits and tags a green night, once the remote has everything that a clone of it needs.

No branch is moved, so two nights that end at the same time do not conflict. If a night is redone with other results,
its tag moves; the earlier commit stays reachable as a parent of the new one.
"""

import logging
import os
from pathlib import Path
from typing import Any

import typer
import yaml

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.files import read_json
from atspeed_core.metrics import of_lists
from tasks.deployment.checkout import STATE
from tasks.deployment.dvc_project import LOCK_FILE, drop_stale_locks, dvc_project, guard_lock_file, not_in_remote, push
from tasks.deployment.workflow import answer, command
from tasks.environment import Deployment
from tasks.git import git
from tasks.nightly.night import Night, load_night
from tasks.paths import RESULTS

METRICS = RESULTS / "metrics.json"
NEEDED = ("params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config", str(METRICS), str(RESULTS / "summary.md"))
INTERACTIONS = "data/interactions.dvc"  # other data sets have none
K = "10"  # list length of the figures in the message, where it was measured

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Push the night's data and models, commit its params, lock and figures, and push the tag."""
    with command("commit_night"):
        answer(commit_night(load_night()))


def commit_night(night: Night) -> dict[str, Any]:
    """Tag the night in the repository; where nothing has changed, the tag and its commit stay.

    Raises:
        UserError: a file of the night is missing.
        TemporaryError: the remote or the repository cannot be reached, or another process has just moved the tag.
    """
    if night.dry_run:
        log.info("dry run: would commit and tag %s", night.tag)
        return {"tag": night.tag, "commit": None}
    if missing := [name for name in NEEDED if not Path(name).exists()]:
        raise UserError(f"{missing[0]} is missing in this checkout; clear the stage that writes it")
    with dvc_project() as repo:
        drop_stale_locks(repo)
        guard_lock_file(repo)
        order_lock_file(repo.lock)
        push(repo)
        if lacking := not_in_remote(repo):
            raise TemporaryError(f"the DVC remote lacks {len(lacking)} files of this night, {lacking[0]} among them")
    return {"tag": night.tag, "commit": tagged(night, tree_of_checkout())}


def order_lock_file(lock: Any) -> None:
    """Sort the stages of dvc.lock by name.

    Otherwise the lock of a night would depend on which of two parallel stages ended first.
    """
    from dvc.utils.serialize import dump_yaml

    with lock:
        content = yaml.safe_load(LOCK_FILE.read_text(encoding="utf-8"))
        stages = content["stages"]
        if list(stages) != sorted(stages):
            dump_yaml(LOCK_FILE, {**content, "stages": {name: stages[name] for name in sorted(stages)}})


def tree_of_checkout() -> str:
    """The git tree of the pinned commit with the night's files; the checkout's own index is not changed."""
    index = {"GIT_INDEX_FILE": str((STATE / f"index-{os.getpid()}").absolute())}
    try:
        git("read-tree", "HEAD", environment=index)
        changed = git(
            "ls-files", "--modified", "--others", "--exclude-standard", "--", "*.gitignore", environment=index
        )
        further = [name for name in (INTERACTIONS, *changed.splitlines()) if Path(name).exists()]
        git("add", "--force", "--", *NEEDED, *further, environment=index)
        return git("write-tree", environment=index)
    finally:
        Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)


def tagged(night: Night, tree: str) -> str:
    """The commit of `tree` with the night's tag at origin; created and pushed where there is none."""
    name = f"refs/tags/{night.tag}"
    remote_tag = git("ls-remote", "origin", name).split()
    old = None
    if remote_tag:
        git("fetch", "--quiet", "--no-tags", "origin", f"+{name}:{name}")
        old = git("rev-parse", f"{name}^{{commit}}")
        if git("rev-parse", f"{old}^{{tree}}") == tree:
            log.info("%s is up to date at %s", night.tag, old)
            return old
        log.warning("%s moves: the night was redone; its earlier commit %s stays as a parent", night.tag, old)
    commit = new_commit(tree, [night.commit, *([old] if old else [])], message(night))
    expected = remote_tag[0] if remote_tag else ""
    git("push", "--quiet", f"--force-with-lease={name}:{expected}", "origin", f"{commit}:{name}")
    git("update-ref", name, commit)
    return commit


def new_commit(tree: str, parents: list[str], text: str) -> str:
    """A new commit, on no branch."""
    deployment = Deployment.from_environment()
    author = {
        "NAME": deployment.git_name,
        "EMAIL": deployment.git_email,
    }
    identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in author.items()}
    options = [part for parent in parents for part in ("-p", parent)]
    return git("commit-tree", tree, *options, "-m", text, environment=identity)


def message(night: Night) -> str:
    """The commit's message: the night, what its training started from, and its figures."""
    metrics = read_json(METRICS)
    origin = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["warm_start"]["commit"]
    start = f"warm start from {origin[:10]}" if origin else "trained from scratch"
    lines = [f"Night {night.date} of {night.dataset}", "", f"Code {night.commit[:10]}, {start}; run {night.run_id}"]
    lines.append(f"target: {figures(metrics['target'], tuple(metric.name for metric in of_lists()))}")
    for method, verified in metrics["methods"].items():
        lines.append(f"{method}: {figures(verified['strict'], ('accepted_steps', 'walltime_speedup'))}")
    return "\n".join(lines)


def figures(by_k: dict[str, Any], names: tuple[str, ...]) -> str:
    """Some figures of a list length, as text."""
    k = K if K in by_k else max((key for key in by_k if key.isdigit()), key=int)
    return ", ".join(f"{name}@{k} {by_k[k][name]:.4f}" for name in names)


if __name__ == "__main__":
    app()
