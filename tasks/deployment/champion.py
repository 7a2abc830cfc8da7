"""Which model is in service when a night is opened, and which one its training may start from."""

from tasks.deployment.model_registry import (
    ACCEPTED,
    COMMIT,
    DATE,
    GATE,
    METHOD,
    RECOMMENDER,
    champion_of,
    registered_name,
    registry,
)
from tasks.nightly.night import Champion


def current_champion(dataset: str) -> Champion | None:
    """The recommender in service; None where there is none yet.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    with registry() as client:
        return champion_of(client, dataset)


def accepted_before(dataset: str, date: str) -> Champion | None:
    """The newest recommender that the gate accepted and that knows nothing of `date` or later; None: there is none.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    with registry() as client:
        versions = client.search_model_versions(f"name = '{registered_name(dataset, RECOMMENDER)}'")
    earlier = [v for v in versions if v.tags.get(GATE) == ACCEPTED and v.tags.get(DATE, date) < date]
    if not earlier:
        return None
    newest = max(earlier, key=lambda version: (version.tags[DATE], int(version.version)))
    tags = newest.tags
    return Champion(version=str(newest.version), commit=tags[COMMIT], date=tags[DATE], method=tags[METHOD])
