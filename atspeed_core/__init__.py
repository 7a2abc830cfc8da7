"""The method: exact, fast top-K decoding for generative recommenders (AtSpeed, arXiv 2410.05165)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atspeed_core.recommender import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    """Import the Recommender, and torch with it, only when it is asked for."""
    if name == "Recommender":
        from atspeed_core.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
