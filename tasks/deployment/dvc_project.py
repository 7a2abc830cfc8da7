"""DVC in a night's checkout: its settings, its locks after a kill, and which of its errors may pass.

DVC runs within our process: that saves its start for each step, shows what went wrong and not only that something
did, and leaves no `dvc` process to outlive a killed command.
"""

import errno
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.files import replacing, write_json
from tasks.addresses import contains_password, masked
from tasks.deployment.checkout import STATE
from tasks.environment import DVC_REMOTE, Deployment
from tasks.stage import TEMPORARY_ERRNOS

if TYPE_CHECKING:  # takes a second to import
    from dvc.repo import Repo

REMOTE_NAME = "nightly"
SIGNALLED = 128  # the exit code of a command that a signal ended is above this in a shell
LOCK_FILE, LAST_WHOLE = Path("dvc.lock"), STATE / "dvc.lock"
LOGGERS = ("dvc", "dvc_objects", "dvc_data")


def remote_url() -> str:
    """Where the nights' data and models are kept.

    Raises:
        UserError: the address holds a password, which would be committed with each night.
    """
    address = Deployment.from_environment().dvc_remote
    if contains_password(address):
        raise UserError(f"{DVC_REMOTE} contains a password; pass it in the variables of DVC's remote instead")
    return address


def configure(checkout: Path) -> None:
    """Settle DVC's configuration in a new checkout.

    The remote goes into .dvc/config and is committed with the night, so that `dvc pull` works in any clone; what
    belongs to this machine room goes into .dvc/config.local.
    """
    from dvc.config import Config

    config = Config(str(checkout / ".dvc"), local_dvc_dir=str(checkout / ".dvc"))
    with config.edit("repo") as settings:
        settings.setdefault("core", {})["remote"] = REMOTE_NAME
        settings["remote"][REMOTE_NAME] = {"url": remote_url()}
    with config.edit("local") as settings:
        settings["cache"] = {"dir": str(Deployment.from_environment().dvc_cache), "shared": "group"}
        settings["core"] = {"analytics": False, "check_update": False, "autostage": False}


@contextmanager
def dvc_project() -> Iterator["Repo"]:
    """The DVC project of the current folder; it waits for others who hold its lock.

    Raises:
        TemporaryError: the remote cannot be reached, files are locked, the disk is full.
        UserError: the configuration is wrong.
    """
    _set_up_environment()
    from dvc.config import ConfigError
    from dvc.repo import Repo

    for name in LOGGERS:  # their lines go where ours go
        logging.getLogger(name).handlers.clear()
    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.scm_context.quiet = True  # no advice to run git add
            yield repo
    except (TemporaryError, UserError):
        raise
    except ConfigError as error:
        raise UserError(f".dvc/config: {error}") from None
    except Exception as error:
        if reason := _may_pass(error):
            raise TemporaryError(f"DVC: {reason}") from error
        raise


def drop_stale_locks(repo: "Repo") -> None:
    """Take back what an earlier attempt at this very command, killed meanwhile, still holds.

    DVC does that itself where the attempt's process id is free, which says little on another machine.
    """
    path = Path(str(repo.tmp_dir)) / "rwlock"
    with repo.lock:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:  # killed while writing it
            path.unlink()
            return
        write_json(path, _without(held, " ".join(sys.argv)))


def guard_lock_file(repo: "Repo") -> None:
    """Keep a copy of dvc.lock, which DVC does not write in one step, or restore it after a kill in between."""
    with repo.lock:
        if not LOCK_FILE.exists() and not LAST_WHOLE.exists():
            return
        whole = _is_whole(LOCK_FILE)
        source, place = (LOCK_FILE, LAST_WHOLE) if whole else (LAST_WHOLE, LOCK_FILE)
        with replacing(place) as temporary:
            temporary.write_bytes(source.read_bytes())


def push(repo: "Repo", targets: list[str] | None = None) -> None:
    """Copy to the remote what the stages `targets` (None: all) have written, where it is not there yet.

    The run cache stays behind: it lies in the cache that all checkouts share, and DVC would copy all of it, whole,
    before and after every stage.

    Raises:
        TemporaryError: the remote does not take it.
    """
    from dvc.config import ConfigError

    try:
        repo.push(targets=targets)
    except ConfigError:
        raise
    except Exception as error:  # each kind of remote has its own errors
        said = " ".join(masked(str(error)).split())
        raise TemporaryError(f"the DVC remote takes nothing: {type(error).__name__}: {said}") from error


def not_in_remote(repo: "Repo") -> list[str]:
    """Paths of the outputs, or of files in them, that the remote lacks; one that was never made is among them.

    `dvc status --cloud` passes over a folder whose listing is neither in the cache nor in the remote.
    """
    outs = [out for out in repo.index.outs if out.use_cache and out.can_push]
    wanted = {info.value: info.obj_name for infos in repo.used_objs(force=True).values() for info in infos}
    wanted |= {out.hash_info.value: str(out) for out in outs if out.hash_info}
    there = set(repo.cloud.get_remote_odb().oids_exist(list(wanted)))
    return [str(out) for out in outs if not out.hash_info] + [wanted[oid] for oid in wanted if oid not in there]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def exit_code_in(error: BaseException) -> int | None:
    """The exit code of the stage command that failed; 1 where a signal ended it; None: no stage command failed."""
    from dvc.stage.exceptions import StageCmdFailedError

    for cause in causes(error):
        if isinstance(cause, StageCmdFailedError):
            match = re.search(r"exited with (-?\d+)$", str(cause))
            code = int(match[1]) if match else 1
            return code if 0 < code < SIGNALLED else 1
    return None


def _set_up_environment() -> None:
    site = Path(".dvc", "tmp", "site", socket.gethostname()).absolute()  # a database: not shared between machines
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(site))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _may_pass(error: BaseException) -> str | None:
    """What went wrong, in a line, where trying again later may help."""
    from dvc.exceptions import FileTransferError
    from dvc.lock import LockError

    lasting = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
    for cause in causes(error):
        if isinstance(cause, FileTransferError | LockError | ConnectionError | TimeoutError):
            return str(cause)
        if isinstance(cause, OSError) and not isinstance(cause, lasting) and cause.errno in _PASSING:
            return str(cause)
    return None


_PASSING = TEMPORARY_ERRNOS | {
    errno.EIO,
    errno.ESTALE,
    errno.EROFS,
    errno.EACCES,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}


def _without(held: dict[str, Any], command: str) -> dict[str, Any]:
    write = {path: info for path, info in held.get("write", {}).items() if info["cmd"] != command}
    read = {path: [i for i in infos if i["cmd"] != command] for path, infos in held.get("read", {}).items()}
    return {"write": write, "read": {path: infos for path, infos in read.items() if infos}}


def _is_whole(path: Path) -> bool:
    """Whether a dvc.lock ends as it should and lacks no stage of the last whole one."""
    stages = _locked_stages(path)
    return stages is not None and stages >= (_locked_stages(LAST_WHOLE) or set())


def _locked_stages(path: Path) -> set[str] | None:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(content, dict) or not text.endswith("\n"):
        return None
    return set(content.get("stages") or {})
