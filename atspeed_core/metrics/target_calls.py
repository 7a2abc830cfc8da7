"""Metric target_calls: forward passes of the target."""

from atspeed_core.metrics import Metric, search_column

METRIC = Metric(
    name="target_calls",
    order=20,
    label="calls",
    title="Target calls",
    summary="Forward passes of the target per request; the one with the prompt counts as one.",
    measure=lambda answers: search_column(answers, "target_calls"),
    of_lists=False,
    digits=2,
)
