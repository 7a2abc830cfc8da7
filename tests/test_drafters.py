"""Drafters: each is one file, and nobody else asks what kind a draft is."""

import ast
from pathlib import Path

import pytest

from atspeed_core.drafters import DRAFTERS, drafter_for, drafter_in
from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.methods import METHODS
from atspeed_core.models.retrieval_draft import RetrievalDraft, save_retrieval
from tests.comparisons import comparisons_with

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", DRAFTERS.names())
def test_a_drafter_has_the_name_of_its_file(name: str) -> None:
    drafter = DRAFTERS.get(name)
    assert drafter.name == name
    assert drafter.summary.endswith(".")


def test_every_method_trains_a_draft_that_there_is() -> None:
    assert {method.drafter for method in METHODS.all().values()} <= set(DRAFTERS.names())


def test_a_draft_is_recognised_in_memory_and_in_its_folder(tmp_path: Path) -> None:
    draft = RetrievalDraft(seed=3)
    save_retrieval(tmp_path / "draft", draft)
    assert drafter_for(draft) is drafter_in(tmp_path / "draft") is DRAFTERS.get("dare")


def test_a_folder_of_an_unknown_drafter_is_the_user_s_mistake(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"drafter": "clairvoyant"})
    with pytest.raises(UserError, match="drafter 'clairvoyant' is unknown; known: dare, "):
        drafter_in(tmp_path)


def test_no_code_compares_with_a_name() -> None:
    assert comparisons_with(DRAFTERS.names()) == []


def test_no_code_asks_for_the_type_of_a_recommender_s_draft() -> None:
    """Its drafter answers; the benchmark's clocks wrap models that they know."""
    text = (ROOT / "atspeed_core" / "recommender.py").read_text(encoding="utf-8")
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert [call for call in calls if call.startswith(("isinstance(self.draft", "type(self.draft"))] == []
