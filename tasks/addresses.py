"""Addresses of repositories, servers and remotes, which may contain a user name and a password."""

import re
from pathlib import Path


def masked(text: str) -> str:
    """`text` with *** in place of the user names and passwords of the addresses in it."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def without_credentials(address: str) -> str:
    """The address without user name and password."""
    return re.sub(r"://[^/\s]*@", "://", address)


def contains_password(address: str) -> bool:
    """Whether the address contains a user name and a password."""
    return re.search(r"://[^/\s]*:[^/\s]*@", address) is not None


def is_path(repository: str) -> bool:
    """Whether a git repository is named by a path rather than by a URL or host:path."""
    return "://" not in repository and ":" not in repository.split("/")[0]


def as_url(repository: str) -> str:
    """A repository as a URL; a folder becomes a file:// URL."""
    return Path(repository).as_uri() if Path(repository).exists() else repository
