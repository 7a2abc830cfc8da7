"""Section `report`: what people look at."""

from atspeed_core.settings.section import Section


class Report(Section):
    """What people look at."""

    title: str
