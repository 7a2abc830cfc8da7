"""The complete history of every user, with which the models in service are queried."""

from pathlib import Path

from atspeed_core.data.sequences import load_full_examples, load_train


def load_histories(folder: str | Path) -> dict[str, list[str]]:
    """User id -> all items of the user in data/processed, oldest first: training, validation, test.

    Nothing is held out, and nothing is truncated to `max_history`, because old items must not be recommended again
    either. Sorted by user id.

    Raises:
        UserError: a table is missing or unreadable.
    """
    known = load_train(folder)
    for part in ("valid", "test"):
        for example in load_full_examples(folder, part):
            known[example.user] = [*example.history, *example.targets]
    return dict(sorted(known.items()))
