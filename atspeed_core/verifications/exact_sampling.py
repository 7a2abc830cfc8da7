"""Verification exact_sampling: lists sampled from the target's distribution (arXiv 1903.06059)."""

from atspeed_core.verifications import Verification

VERIFICATION = Verification(
    name="exact_sampling",
    order=40,
    summary="K items sampled without replacement from the target's distribution, exactly.",
    search=lambda engine, request, seed: engine.search_sampled(request, seed),
    lossless=True,
    compared_with="target_samples",
    planned=True,
)
