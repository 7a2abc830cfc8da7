"""Method dare: retrieval drafting (arXiv 2408.05676); its draft is a seed."""

from atspeed_core.methods import Method

METHOD = Method(
    name="dare",
    order=50,
    summary="Retrieval drafting, nothing is trained.",
    drafter="dare",
    sequences=None,
    loss=None,
    paper_row="DARE",
)
