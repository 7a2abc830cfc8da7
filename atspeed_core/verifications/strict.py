"""Verification strict: the target's lists, faster."""

from atspeed_core.verifications import Verification

VERIFICATION = Verification(
    name="strict",
    order=20,
    summary="The lists of the target's beam search, item by item, whatever is proposed.",
    search=lambda engine, request, seed: engine.search_best(request),
    lossless=True,
    compared_with="reference",
    planned=True,
    primary=True,
    in_paper=True,
    also_as_published=True,
)
