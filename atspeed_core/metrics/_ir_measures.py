"""Metrics that ir-measures computes."""

import ir_measures
import numpy as np
from numpy.typing import NDArray

from atspeed_core.metrics import Answers


def by_ir_measures(name: str, answers: Answers) -> NDArray[np.float64]:
    """The measure `name` of ir-measures at `answers.k`, [users] float64; 0 for a user without a hit."""
    values = np.zeros(len(answers.items))
    measure = ir_measures.parse_measure(f"{name}@{answers.k}")
    for value in ir_measures.iter_calc([measure], answers.relevance, answers.ranks):
        values[int(value.query_id)] = value.value
    return values
