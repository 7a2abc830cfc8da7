"""Metric recall: Recall@K."""

from atspeed_core.metrics import Metric
from atspeed_core.metrics._ir_measures import by_ir_measures

METRIC = Metric(
    name="recall",
    order=40,
    label="Recall",
    title="Recall",
    summary="Share of the held-out items that are in the list.",
    measure=lambda answers: by_ir_measures("R", answers),
    of_lists=True,
    digits=4,
    compared=True,
    judged=True,
)
