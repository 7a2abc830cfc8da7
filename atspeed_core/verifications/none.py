"""Verification none: nothing to verify."""

from atspeed_core.verifications import Verification

VERIFICATION = Verification(
    name="none",
    order=10,
    summary="The target's own beam search, without speculation.",
    search=lambda engine, request, seed: engine.search_best(request, speculate=False),
    lossless=True,
    compared_with="reference",
    planned=False,
)
