"""Reading {user: [item, ...]} from a pickled .npy file without running the pickle.

The pickle's instructions are decoded by `pickletools.genops`, which executes nothing, and interpreted by a small
machine. It can build numbers, strings, lists, tuples, dicts and the shell of a 0-d object array;
every other instruction, and every name but NumPy's three for such an array, is refused.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atspeed_core.errors import UserError

ARRAY_NAMES = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")} | {"numpy ndarray", "numpy dtype"}


class RefusedError(Exception):
    """The pickle contains something that a dict of lists does not need."""


@dataclass
class Shell:
    """Represents an object that is never built: the NumPy array or its dtype. `state`: what it would be built from."""

    name: str
    state: Any = None


@dataclass
class Machine:
    """The pickle machine's stacks and memo."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # the stacks under each open mark
    memo: dict[int, Any] = field(default_factory=dict)

    def push_mark(self) -> None:
        """Open a mark: what follows is collected separately."""
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Close the last mark and return what was pushed since."""
        collected, self.stack = self.stack, self.below.pop()
        return collected

    def pop(self, count: int) -> tuple[Any, ...]:
        """The last `count` values, oldest first."""
        return tuple(self.stack.pop() for _ in range(count))[::-1]


def read_lists(path: Path) -> dict[int, list[int]]:
    """Read the lists of item numbers by user number.

    Raises:
        UserError: no such file, not such an array, or a pickle that contains anything else (nothing of it is executed).
    """
    try:
        with path.open("rb") as file:
            _check_header(file)
            value = _follow(file.read())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set prepare_data.path to the folder of the release") from None
    except RefusedError as error:
        raise UserError(f"{path}: refused, nothing was executed: {error}; use the published file") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        what = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: truncated or no pickled 0-d array ({what}); copy the published file again") from None
    return _checked(path, value)


def _check_header(file: Any) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"the array has shape {shape} and dtype {dtype}")


def _follow(pickle: bytes) -> Any:
    """The value in the 0-d object array that `pickle` describes."""
    machine = Machine()
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in VALUES:
            machine.stack.append(argument)
        elif opcode.name in STEPS:
            STEPS[opcode.name](machine, argument)
        elif opcode.name not in IGNORED:
            raise RefusedError(f"instruction {opcode.name}")
    (array,) = machine.stack
    _version, shape, _dtype, _fortran_order, values = array.state
    if array.name != "array" or shape != () or len(values) != 1:
        raise ValueError("no array of one object")
    return values[0]


def _global(machine: Machine, name: str) -> None:
    if name not in ARRAY_NAMES:
        raise RefusedError(f"the name {name.replace(' ', '.')}")
    machine.stack.append(Shell(name))


def _stack_global(machine: Machine, _: Any) -> None:
    module, name = machine.pop(2)
    _global(machine, f"{module} {name}")


def _reduce(machine: Machine, _: Any) -> None:
    function, arguments = machine.pop(2)
    if not isinstance(function, Shell) or function.name == "numpy ndarray":
        raise RefusedError("a call of something else than NumPy's array or dtype")
    machine.stack.append(Shell("dtype" if function.name == "numpy dtype" else "array", arguments))


def _build(machine: Machine, _: Any) -> None:
    (state,) = machine.pop(1)
    machine.stack[-1].state = state


def _memoize(machine: Machine, place: int | None) -> None:
    machine.memo[len(machine.memo) if place is None else place] = machine.stack[-1]


def _recall(machine: Machine, place: int) -> None:
    machine.stack.append(machine.memo[place])


def _extend(machine: Machine, values: list[Any]) -> None:
    _a(machine.stack[-1], list).extend(values)


def _set_items(machine: Machine, values: list[Any]) -> None:
    _a(machine.stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))


def _a(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(machine.pop(count))


def _tuple_of_marked(machine: Machine, _: Any) -> None:
    values = tuple(machine.pop_mark())
    machine.stack.append(values)


VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
}
IGNORED = {"PROTO", "FRAME", "STOP"}
STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "MARK": lambda machine, _: machine.push_mark(),
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _tuple_of_marked,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "APPEND": lambda machine, _: _extend(machine, list(machine.pop(1))),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_mark()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "SETITEM": lambda machine, _: _set_items(machine, list(machine.pop(2))),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "MEMOIZE": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
}


def _checked(path: Path, value: Any) -> dict[int, list[int]]:
    if type(value) is not dict:
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a dict; use the published file")
    for user, items in value.items():
        if type(user) is not int or type(items) is not list or any(type(item) is not int for item in items):
            raise UserError(f"{path}: user {user!r:.40}: expected a list of whole item numbers; use the published file")
    return value
