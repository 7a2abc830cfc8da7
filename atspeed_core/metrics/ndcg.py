"""Metric ndcg: NDCG@K, the normalised discounted cumulative gain."""

from atspeed_core.metrics import Metric
from atspeed_core.metrics._ir_measures import by_ir_measures

METRIC = Metric(
    name="ndcg",
    order=50,
    label="NDCG",
    title="NDCG",
    summary="Discounted gain of the held-out items in the list, over the largest possible gain.",
    measure=lambda answers: by_ir_measures("nDCG", answers),
    of_lists=True,
    digits=4,
    compared=True,
    judged=True,
)
