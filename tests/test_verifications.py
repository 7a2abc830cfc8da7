"""Verifications: each is one file, and nobody else compares with its name."""

import pytest

from atspeed_core.verifications import VERIFICATIONS, primary
from tests.comparisons import comparisons_with


@pytest.mark.parametrize("name", VERIFICATIONS.names())
def test_a_verification_has_the_name_of_its_file(name: str) -> None:
    verification = VERIFICATIONS.get(name)
    assert verification.name == name
    assert verification.summary.endswith(".")


def test_one_verification_is_primary() -> None:
    assert [v for v in VERIFICATIONS.all().values() if v.primary] == [primary()]
    assert primary().lossless


def test_no_code_compares_with_a_name() -> None:
    """What differs from one verification to another is in its object."""
    comparisons = comparisons_with(VERIFICATIONS.names())
    assert [line for line in comparisons if "speculation" not in line] == []  # a plan's choice may be "none"
