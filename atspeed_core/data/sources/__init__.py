"""Where interactions come from: one reader a source, all behind `read_source`."""

from atspeed_core.data.sources.registry import Source, read_source

__all__ = ["Source", "read_source"]
