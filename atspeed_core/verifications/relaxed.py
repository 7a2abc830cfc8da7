"""Verification relaxed: the paper's approximate sampling."""

from atspeed_core.verifications import Verification

VERIFICATION = Verification(
    name="relaxed",
    order=30,
    summary="The paper's sampling scheme (AtSpeed, section 3.3), approximately the target's distribution.",
    search=lambda engine, request, seed: engine.search_relaxed(request, seed),
    lossless=False,
    compared_with="reference",
    planned=False,
    drafts_in_rounds=True,
    in_paper=True,
)
