"""DVC in a checkout: its configuration, its locks after a kill, and which of its errors are temporary.

DVC runs within our process. This saves its start at every step, gives us its errors rather than an exit code, and
leaves no `dvc` process behind when a command is killed.
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
    """The DVC remote of the nights.

    Raises:
        UserError: the address contains a password, which would be committed with each night.
    """
    address = Deployment.from_environment().dvc_remote
    if contains_password(address):
        raise UserError(f"{DVC_REMOTE} contains a password; pass it in the variables of DVC's remote instead")
    return address


def configure(checkout: Path) -> None:
    """Write DVC's configuration in a new checkout.

    The remote is in .dvc/config and is committed with the night, so that `dvc pull` works in any clone. Settings of
    this deployment are in .dvc/config.local.
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
    """The DVC project of the current folder; waits while another process holds its lock.

    Raises:
        TemporaryError: the remote cannot be reached, files are locked, the disk is full.
        UserError: the configuration is wrong.
    """
    _set_up_environment()
    from dvc.config import ConfigError
    from dvc.repo import Repo

    for name in LOGGERS:  # their lines appear among ours
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
        if reason := _temporary_reason(error):
            raise TemporaryError(f"DVC: {reason}") from error
        raise


def drop_stale_locks(repo: "Repo") -> None:
    """Remove the locks of an earlier attempt at the same command that was killed.

    DVC does so itself where the attempt's process id is free, but ids of another machine mean nothing here.
    """
    path = Path(str(repo.tmp_dir)) / "rwlock"
    with repo.lock:
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:  # killed while writing it
            path.unlink()
            return
        write_json(path, _without(locks, " ".join(sys.argv)))


def guard_lock_file(repo: "Repo") -> None:
    """Save a copy of dvc.lock, which DVC does not write atomically, or restore it after a kill during a write."""
    with repo.lock:
        if not LOCK_FILE.exists() and not LAST_WHOLE.exists():
            return
        whole = _is_whole(LOCK_FILE)
        source, place = (LOCK_FILE, LAST_WHOLE) if whole else (LAST_WHOLE, LOCK_FILE)
        with replacing(place) as temporary:
            temporary.write_bytes(source.read_bytes())


def push(repo: "Repo", targets: list[str] | None = None) -> None:
    """Copy the outputs of the stages `targets` (None: all) to the remote where it lacks them.

    The run cache is not pushed: all checkouts share it, and DVC would copy all of it before and after every stage.

    Raises:
        TemporaryError: the remote does not accept them.
    """
    from dvc.config import ConfigError

    try:
        repo.push(targets=targets)
    except ConfigError:
        raise
    except Exception as error:  # each kind of remote has its own errors
        reason = " ".join(masked(str(error)).split())
        raise TemporaryError(f"the DVC remote accepts nothing: {type(error).__name__}: {reason}") from error


def not_in_remote(repo: "Repo") -> list[str]:
    """Paths of the outputs, or of files in them, that the remote lacks, with those that were never produced.

    `dvc status --cloud` ignores a folder whose listing is neither in the cache nor in the remote.
    """
    outs = [out for out in repo.index.outs if out.use_cache and out.can_push]
    paths = {info.value: info.obj_name for infos in repo.used_objs(force=True).values() for info in infos}
    paths |= {out.hash_info.value: str(out) for out in outs if out.hash_info}
    remote = set(repo.cloud.get_remote_odb().oids_exist(list(paths)))
    return [str(out) for out in outs if not out.hash_info] + [paths[oid] for oid in paths if oid not in remote]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
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


def _temporary_reason(error: BaseException) -> str | None:
    """The reason of a temporary fault in one line; None: a retry would not help."""
    from dvc.exceptions import FileTransferError
    from dvc.lock import LockError

    permanent = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
    for cause in causes(error):
        if isinstance(cause, FileTransferError | LockError | ConnectionError | TimeoutError):
            return str(cause)
        if isinstance(cause, OSError) and not isinstance(cause, permanent) and cause.errno in _TEMPORARY:
            return str(cause)
    return None


_TEMPORARY = TEMPORARY_ERRNOS | {
    errno.EIO,
    errno.ESTALE,
    errno.EROFS,
    errno.EACCES,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}


def _without(locks: dict[str, Any], command: str) -> dict[str, Any]:
    write = {path: info for path, info in locks.get("write", {}).items() if info["cmd"] != command}
    read = {path: [i for i in infos if i["cmd"] != command] for path, infos in locks.get("read", {}).items()}
    return {"write": write, "read": {path: infos for path, infos in read.items() if infos}}


def _is_whole(path: Path) -> bool:
    """Whether a dvc.lock is complete and has every stage of the last complete one."""
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
