"""Metric target_nodes: what the target scores in its calls."""

from atspeed_core.metrics import Metric, search_column

METRIC = Metric(
    name="target_nodes",
    order=30,
    label="nodes",
    title="Target nodes",
    summary="Trie nodes that the target scores per request.",
    measure=lambda answers: search_column(answers, "target_nodes"),
    of_lists=False,
    digits=0,
    in_tables=False,
)
