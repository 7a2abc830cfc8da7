"""Pickled lists are read without running the pickle; whatever is more than lists of numbers is refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atspeed_core.data.published_lists import read_lists
from atspeed_core.errors import UserError

LISTS = {0: [1, 2, 300], 7: [], 70_000: [2**40, 5], 3: [1]}
HEADER = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def save(path: Path, value: Any) -> Path:
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_protocol_that_numpy_writes(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.npy"
    array = np.empty((), dtype=object)
    array[()] = LISTS
    path.write_bytes(HEADER + pickle.dumps(array, protocol=protocol))
    assert read_lists(path) == LISTS


def test_many_users_and_shared_lists(tmp_path: Path) -> None:
    shared = list(range(2000))
    lists = {user: shared if user % 2 else [user] for user in range(3000)}
    assert read_lists(save(tmp_path / "a.npy", lists)) == lists


@pytest.mark.parametrize("inside", [lambda evil: evil, lambda evil: {0: evil}, lambda evil: {0: [1, evil]}])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, inside: Any) -> None:
    mark = tmp_path / "was_here"
    path = save(tmp_path / "a.npy", inside(Evil(f"touch {mark}")))
    with pytest.raises(UserError, match=r"refused, nothing was executed: the name (posix|os)\.system") as error:
        read_lists(path)
    assert str(path) in str(error.value)
    assert not mark.exists()
    np.load(path, allow_pickle=True)  # the same file does run its command when it is unpickled
    assert mark.exists()


def test_calling_a_known_name_with_a_stranger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(HEADER + b"\x80\x03]K\x01\x85R.")  # calls a list
    with pytest.raises(UserError, match="refused, nothing was executed: a call"):
        read_lists(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "holds a list, expected a dict"),
        ({"u": [1]}, "user 'u': expected a list"),
        ({1: [1, "a"]}, "user 1: expected a list"),
        ({1: [True]}, "user 1: expected a list"),
        ({1: 5}, "user 1: expected a list"),
        ({1: [1.5]}, "instruction BINFLOAT"),
        ({1: {2}}, "refused"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_lists(save(tmp_path / "a.npy", value))


@pytest.mark.parametrize("length", [0, 5, 60, 128, 150, 200, -1])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, length: int) -> None:
    path = save(tmp_path / "a.npy", LISTS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="truncated or no pickled") as error:
        read_lists(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_a_plain_array(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_lists(tmp_path / "none.npy")
    np.save(tmp_path / "plain.npy", np.arange(3))
    with pytest.raises(UserError, match=r"the array has shape \(3,\)"):
        read_lists(tmp_path / "plain.npy")
