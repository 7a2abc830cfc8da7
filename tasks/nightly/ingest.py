"""Ingest: the base night's interactions plus the feed's days since then, up to the night's date.

First the interactions are replaced by those of the base night (the latest tag before the date). So a night that is run
again, or a backfill of a past date, contains no later day.
"""

import logging
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atspeed_core.data.feed import Feed, append, find_feed, late_days
from atspeed_core.data.partitions import changing, num_interactions
from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.files import replacing
from tasks.deployment.checkout import commit_named
from tasks.deployment.dvc_project import drop_stale_locks, dvc_project, push
from tasks.deployment.workflow import NothingToDo, answer, command
from tasks.environment import Deployment
from tasks.git import git_if_possible
from tasks.nightly.night import Night, load_night
from tasks.presets import Nightly, load_preset

if TYPE_CHECKING:  # takes a second to import
    from dvc.repo import Repo

INTERACTIONS = Path("data/interactions")
TRACKED = Path("data/interactions.dvc")
MAX_LISTED = 10

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Append the feed's new days to data/interactions, add it to DVC and push it. Run in the night's checkout."""
    with command("ingest"):
        night = load_night()
        nightly = load_preset(night.dataset).nightly
        feed = find_feed(Deployment.from_environment().feed(night.dataset, nightly.feed))
        with dvc_project() as repo:
            drop_stale_locks(repo)
            after = base_date(night) if restore(repo, night.base_tag) else None
        if after is not None:
            _warn_of_late_days(feed, after, nightly)
        new = _append(feed, after, night)
        with dvc_project() as repo:
            repo.add([str(INTERACTIONS)])
            if not night.dry_run:
                push(repo, [str(TRACKED)])
        total = num_interactions(INTERACTIONS)
        log.info("%d new interactions in %s; %d in all", sum(new.values()), _listed(list(new)), total)
        answer({"new_interactions": sum(new.values()), "days": list(new), "total_interactions": total})


def base_date(night: Night) -> str | None:
    """The last day of the base night, YYYY-MM-DD, which ends its tag; None: there is no base night."""
    return night.base_tag.rpartition("/")[2] if night.base_tag else None


def restore(repo: "Repo", tag: str | None) -> bool:
    """Restore data/interactions from the commit `tag`; returns whether that commit has any.

    Raises:
        UserError: the checkout lacks the tag.
        TemporaryError: the data are neither in the cache nor in the remote.
    """
    pointer = _pointer_of(tag) if tag else None
    if pointer is None:
        shutil.rmtree(INTERACTIONS, ignore_errors=True)
        TRACKED.unlink(missing_ok=True)
        return False
    with replacing(TRACKED) as temporary:
        temporary.write_text(pointer + "\n", encoding="utf-8")
    _check_out(repo, str(TRACKED))
    return True


def _pointer_of(tag: str) -> str | None:
    """The content of data/interactions.dvc in the commit `tag`; None: the commit has no such file."""
    if commit_named(tag) is None:
        raise UserError(f"the base night's tag {tag} is not in this checkout; open the night again")
    return git_if_possible("show", f"{tag}:./{TRACKED}")


def _check_out(repo: "Repo", target: str) -> None:
    """Check out the files of the .dvc file `target`, from the cache or else from the remote."""
    from dvc.exceptions import CheckoutError

    try:
        repo.checkout([target], force=True)
    except CheckoutError:
        log.info("%s: incomplete in the cache; pulling it from the remote", target)
        try:
            repo.pull([target], force=True)
        except CheckoutError as error:
            raise TemporaryError(f"{target}: neither in the cache nor in the remote: {error}") from None


def _append(feed: Feed, after: str | None, night: Night) -> dict[str, int]:
    """Append the new days; without any, or with a damaged file, data/interactions stays unchanged."""
    with changing(INTERACTIONS) as folder:
        new = append(folder, feed, after=after, until=night.date)
        if not sum(new.values()) and night.force is None:
            raise NothingToDo(_nothing(feed, after, night.date, list(new)))
        if not num_interactions(folder):
            raise UserError(f"{feed.folder}: no interactions up to {night.date}; a first night needs some")
    if night.date not in feed.days and night.date not in new:
        log.warning("%s has no file of %s; a file that arrives later is not ingested", feed.folder, night.date)
    return new


def _nothing(feed: Feed, after: str | None, until: str, empty: list[str]) -> str:
    span = f"after {after} up to {until}" if after else f"up to {until}"
    files = f"only empty files ({_listed(empty)})" if empty else "no file"
    newest = f"its newest day is {max(feed.days)}" if feed.days else "it has no day at all"
    return f"no new interactions: looked in {feed.folder} for the days {span} and found {files}; {newest}"


def _warn_of_late_days(feed: Feed, after: str, nightly: Nightly) -> None:
    recent = date.fromisoformat(after) - timedelta(days=nightly.checks.window_days)
    if late := late_days(INTERACTIONS, feed, until=after, recent=recent.isoformat()):
        log.warning(
            "%s: not ingested, because their nights are closed: %s arrived late or changed since; to ingest them, "
            "delete the tags of the nights from %s on and run these nights again",
            *(feed.folder, _listed(late), late[0]),
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "no day") + more


if __name__ == "__main__":
    app()
