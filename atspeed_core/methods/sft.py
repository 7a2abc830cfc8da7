"""Method sft: nothing but the recommendation loss."""

from atspeed_core.methods import Method

METHOD = Method(
    name="sft",
    order=10,
    summary="Draft trained on the recommendation loss alone.",
    drafter="language_model",
    sequences=None,
    loss=None,
    paper_row="SFT",
    wired=True,
)
