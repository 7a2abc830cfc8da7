"""The assets by which one DAG starts another, and what a DAG reads of the event that started it."""

from airflow.sdk import Asset

CHALLENGER = Asset("atspeed_challenger", uri="atspeed://models/challenger")
CHAMPION = Asset("atspeed_champion", uri="atspeed://models/champion")

_EVENTS = "{% set events = triggering_asset_events.values() | map('last') | list %}"


def from_event(field: str, *, otherwise: str) -> str:
    """A template: the field of the event that started the run, or of a run started by hand `otherwise`.

    Args:
        field: one of the answer of the command that updated the asset.
        otherwise: an expression of Jinja.
    """
    return _EVENTS + f"{{{{ events[-1].extra.{field} if events else {otherwise} }}}}"
