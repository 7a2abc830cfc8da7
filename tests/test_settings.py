"""params.yaml: what is refused, and that the line says what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.errors import UserError
from atspeed_core.settings import Params, load_params

DEFAULT = Path(__file__).resolve().parents[1] / "params.yaml"


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default params with one setting replaced."""
    raw: dict[str, Any] = yaml.safe_load(DEFAULT.read_text())
    *sections, key = path.split(".")
    inner = raw
    for section in sections:
        inner = inner[section]
    inner[key] = value
    return raw


def refusal(raw: Any, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError) as error:
        load_params(path)
    return str(error.value)


def test_the_default_file_is_accepted_and_read() -> None:
    params = load_params(DEFAULT)
    assert params.prepare_data.dataset == "ml-latest-small-2016"
    assert params.align_draft.lambda_ == yaml.safe_load(DEFAULT.read_text())["align_draft"]["lambda"]
    assert params.evaluate.ks == [1, 3, 5, 10, 20]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("evalute", {}, "unknown key 'evalute'; did you mean 'evaluate'?"),
        ("prepare_data.max_histroy", 20, "unknown key 'prepare_data.max_histroy'; did you mean 'max_history'?"),
        ("align_draft.lamda", 0.5, "unknown key 'align_draft.lamda'; did you mean 'lambda'?"),
        ("finetune_target.architecture.layers", 2, "'finetune_target.architecture.layers'; did you mean 'num_layers'?"),
        ("report.xyz", 1, "unknown key 'report.xyz'; known: title"),
        ("align_draft.alpha", 1.5, "'align_draft.alpha': Input should be less than or equal to 1 (got 1.5)"),
        ("prepare_data.k_core", "five", "'prepare_data.k_core': Input should be a valid integer"),
        ("prepare_data.source", "netflix", "'prepare_data.source': no such source; known: amazon, atspeed_release,"),
        ("build_identifiers.file", "ids.json", "'file' must be set for method 'file', and only for it"),
        ("finetune_target.base_model", "llama", "set exactly one of 'base_model' (fine-tune) and 'architecture'"),
        ("align_draft.base_model", "llama", "set exactly one of 'base_model' (pretrained) and 'architecture'"),
        ("evaluate.draft_beams", 5, "'draft_beams' (5) must be at least the largest of 'ks' (20)"),
        ("align_draft.architecture.num_heads", 3, "'hidden_size' must be a multiple of 2 * 'num_heads'"),
    ],
)
def test_a_mistake_is_named(path: str, value: Any, said: str, tmp_path: Path) -> None:
    message = refusal(changed(path, value), tmp_path)
    assert said in message
    assert message.startswith(str(tmp_path / "params.yaml"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    raw = changed("prepare_data.k_core", 0)
    del raw["align_draft"]
    raw["evaluate"]["kz"] = 1
    message = refusal(raw, tmp_path)
    assert "'prepare_data.k_core'" in message
    assert "'align_draft' is missing" in message
    assert "did you mean 'ks'?" in message


def test_an_absent_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run from the project's folder or give --params"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("content", ["a: [1", "- 1", "", "\x00", "text"])
def test_what_is_no_mapping_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"not valid YAML|expected sections") as error:
        load_params(path)
    assert "\n" not in str(error.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_value_of_a_section_is_a_defect(value: Any) -> None:
    """Whatever stands in a section's place is refused as the user's mistake, or accepted as its empty form."""
    with pytest.raises(ValueError, match="prepare_data"):
        Params.model_validate(changed("prepare_data", value))
