"""Metric accepted_steps (AS): the target calls that speculation saves."""

from atspeed_core.metrics import Metric, search_column

METRIC = Metric(
    name="accepted_steps",
    order=10,
    label="AS",
    title="Accepted steps",
    summary="Target calls that a request saves: its levels minus its target calls.",
    measure=lambda answers: search_column(answers, "accepted_steps"),
    of_lists=False,
    digits=2,
    compared=True,
)
