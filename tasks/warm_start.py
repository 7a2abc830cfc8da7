"""Stage warm_start: fetches the champion's identifiers, target and drafts, from which later stages may start."""

import logging
from pathlib import Path
from typing import Any

import typer
import yaml

from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from tasks.git import commit_of
from tasks.paths import CHAMPION, DRAFTS, IDENTIFIERS, TARGET
from tasks.stage import ParamsPath, stage

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Fetch the champion of warm_start.commit into data/champion/; without a commit, only origin.json is written."""
    with stage("warm_start", params) as run:
        commit = run.params.warm_start.commit
        with replacing(CHAMPION) as folder:
            folder.mkdir()
            origin = {"commit": None} if commit is None else fetch(commit, folder)
            write_json(folder / "origin.json", origin)
        run.log_param("champion_commit", origin["commit"])
        log.info("champion: %s", origin["commit"] or "none, training starts from scratch")


def fetch(commit: str, folder: Path) -> dict[str, Any]:
    """Copy identifiers, target and drafts of a commit of this repository into `folder`, from DVC's cache or remote.

    Args:
        commit: a commit, or a tag of one.
        folder: receives identifiers/, target/ and drafts/METHOD/ (if the commit has any).

    Returns:
        The content of origin.json: the commit's full id and the base models of target and drafts (None: from scratch).

    Raises:
        UserError: there is no such commit, it has no identifiers or target, or their data are in no cache or remote.
    """
    from dvc.api import DVCFileSystem  # takes a second to import, only needed with a champion

    name = _full_name(commit)
    files = DVCFileSystem(repo=".", rev=name)
    for out in (IDENTIFIERS, TARGET):
        if not _is_locked(files, out):
            raise UserError(
                f"warm_start.commit: {commit} has no {out} in its dvc.lock; name a finished night, or set it to null"
            )
        _copy(files, out, folder / out.name, commit)
    for draft in filter(lambda draft: _is_locked(files, draft), _below(files, DRAFTS)):
        _copy(files, draft, folder / DRAFTS.name / draft.name, commit)
    return {"commit": name, **_base_models(files)}


def _full_name(commit: str) -> str:
    name = commit_of(commit)
    if name is None:
        raise UserError(
            f"warm_start.commit: {commit} is not a commit of this repository; git fetch --tags, or set it to null"
        )
    return name


def _is_locked(files: Any, out: Path) -> bool:
    """Whether dvc.lock has the content of a folder; dvc.yaml may name outputs that were never produced."""
    return bool(files.exists(str(out)) and files.info(str(out)).get("md5"))


def _below(files: Any, folder: Path) -> list[Path]:
    return [Path(name) for name in sorted(files.ls(str(folder), detail=False))] if files.exists(str(folder)) else []


def _copy(files: Any, out: Path, place: Path, commit: str) -> None:
    from dvc_data.index import DataIndexDirError

    try:
        files.get(str(out), str(place), recursive=True)
    except (FileNotFoundError, DataIndexDirError) as error:
        if not isinstance(error.__cause__ or error, FileNotFoundError):
            raise  # such as a remote that cannot be reached
        raise UserError(
            f"warm_start.commit: {out} of {commit} is neither in DVC's cache nor in its remote; "
            "dvc push it where it was produced, or set the commit to null"
        ) from None


def _base_models(files: Any) -> dict[str, str | None]:
    params = yaml.safe_load(files.read_text("params.yaml", encoding="utf-8"))
    sections = {"base_model": "finetune_target", "draft_base_model": "align_draft"}
    return {name: params[section].get("base_model") for name, section in sections.items()}


if __name__ == "__main__":
    app()
