"""Section `warm_start`: what training starts from."""

from typing import Annotated

from pydantic import Field

from atspeed_core.settings.section import Section


class WarmStart(Section):
    """What training starts from.

    Attributes:
        commit: of the champion, in this repository: its identifiers are kept, its models trained on; None: from
            scratch.
    """

    commit: Annotated[str, Field(min_length=1)] | None
