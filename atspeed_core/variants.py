"""Variants of one thing, one file each: a package whose every module declares one object of a type.

Adding a variant means adding its file; nothing else lists it. docs/extending.md shows each kind of variant.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from atspeed_core.errors import UserError

T = TypeVar("T")


class Variants(Generic[T]):
    """The variants in a package: its modules, without those whose name begins with an underscore.

    Attributes:
        package: dotted name of the package.
        kind: type of the object that each module declares.
        noun: what one variant is called in messages, such as "method".
    """

    def __init__(self, package: str, kind: type[T], noun: str, *, order: Callable[[T], Any] | None = None) -> None:
        """Describe the package; nothing is imported yet.

        Args:
            package: dotted name of the package.
            kind: type of the object that each module declares.
            noun: what one variant is called in messages.
            order: sort key of `all`; default: by name.
        """
        self.package, self.kind, self.noun = package, kind, noun
        self._order = order
        self._loaded = dict[str, T]()

    def names(self) -> tuple[str, ...]:
        """Names of the variants, sorted; imports none of them."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None
        modules = pkgutil.iter_modules(spec.submodule_search_locations)
        return tuple(sorted(module.name for module in modules if not module.name.startswith("_")))

    def get(self, name: str) -> T:
        """The variant called `name`; imports its module.

        Raises:
            UserError: there is no such variant.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name not in self.names():
            raise UserError(f"{self.noun} '{name}' is unknown; known: {', '.join(self.names())}")
        module = importlib.import_module(f"{self.package}.{name}")
        declared = [value for value in vars(module).values() if isinstance(value, self.kind)]
        if len(declared) != 1:
            raise TypeError(f"{module.__name__} declares {len(declared)} {self.kind.__name__} objects instead of one")
        return self._loaded.setdefault(name, declared[0])

    def all(self) -> dict[str, T]:
        """Every variant by name, in order; imports all their modules."""
        variants = {name: self.get(name) for name in self.names()}
        order = self._order
        if order is None:
            return variants
        return dict(sorted(variants.items(), key=lambda pair: order(pair[1])))
