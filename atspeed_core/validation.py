"""Explains in one line what pydantic found wrong, and reads files that hold one model."""

import difflib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from atspeed_core.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def explain(
    error: ValidationError, model: type[BaseModel], *, if_missing: Callable[[list[str]], str | None] = lambda _: None
) -> str:
    """All faults in one line; for an unknown key the nearest known one is named.

    Args:
        error: raised when the values were validated.
        model: what they were validated against.
        if_missing: the remedy for a key that is missing, by its location; None: there is nothing to add.
    """
    return "; ".join(_explain(fault, model, if_missing) for fault in error.errors())


def read_model(path: Path, model: type[Model], *, if_missing: str, if_damaged: str) -> Model:
    """Read a JSON file that holds one model.

    Args:
        path: the file.
        model: its type.
        if_missing: what the user should do when there is no such file.
        if_damaged: what the user should do when the content is not valid.

    Raises:
        UserError: there is no such file, or its content is not valid.
    """
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {if_missing}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        reason = explain(error, model) if isinstance(error, ValidationError) else "no text"
        raise UserError(f"{path}: damaged ({reason}); {if_damaged}") from None


def _explain(fault: Any, model: type[BaseModel], if_missing: Callable[[list[str]], str | None]) -> str:
    location = [str(part) for part in fault["loc"]]
    name, message = ".".join(location), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
        return f"unknown key '{name}'; {hint}"
    if fault["type"] == "missing":
        remedy = if_missing(location)
        return f"'{name}' is missing" + (f"; {remedy}" if remedy else "")
    return f"'{name}': {message} (got {fault['input']!r:.80})" if name else str(message)


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys of the section at `location`."""
    annotation: Any = model
    for part in location:
        annotation = _annotation_of(annotation, part)
    return [field.alias or name for name, field in annotation.model_fields.items()]


def _annotation_of(annotation: Any, part: str) -> Any:
    """The type of the value `part` (a key or an index) of a value of type `annotation`."""
    if typing.get_origin(annotation) is not None:  # list[...] or dict[str, ...]
        return typing.get_args(annotation)[-1]
    field = next(f for name, f in annotation.model_fields.items() if part in (name, f.alias))
    if isinstance(field.annotation, types.UnionType):
        return next(option for option in typing.get_args(field.annotation) if option is not type(None))
    return field.annotation
