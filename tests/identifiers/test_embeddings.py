"""Item embeddings: near by text, near by neighbourhood, weighted, and from training sequences only."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from atspeed_core.errors import UserError
from atspeed_core.identifiers.cooccurrence import cooccurrence_counts, positive_pmi
from atspeed_core.identifiers.embeddings import cooccurrence_embeddings, item_embeddings, tfidf_embeddings
from atspeed_core.identifiers.sentence_encoder import encode_sentences
from tests.complete_params import BuildIdentifiers

ITEMS = ["a", "b", "c", "d", "e"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "space", "war", "love", "paris"]


def test_counts_are_symmetric_within_the_window() -> None:
    counts = cooccurrence_counts(ITEMS, [["a", "b", "c"], ["b", "a"]], window=1).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = 2
    expected[1, 2] = expected[2, 1] = 1
    np.testing.assert_array_equal(counts, expected)
    assert cooccurrence_counts(ITEMS, [["a", "b", "c"]], window=2).toarray()[0, 2] == 1


def test_an_item_is_no_neighbour_of_itself() -> None:
    assert cooccurrence_counts(ITEMS, [["a", "a", "b"]], window=2).toarray().diagonal().sum() == 0


def test_positive_pmi_against_its_definition() -> None:
    counts = cooccurrence_counts(ITEMS, [["a", "b", "a", "c"], ["d", "b", "c"]], window=2)
    dense = counts.toarray()
    context = dense.sum(0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log((dense / dense.sum()) / np.outer(dense.sum(1) / dense.sum(), context / context.sum()))
    expected = np.where(dense > 0, np.maximum(pmi, 0), 0)
    np.testing.assert_allclose(positive_pmi(counts).toarray(), expected, atol=1e-12)
    assert expected.max() > 0


def test_items_with_one_neighbour_in_common_are_near_and_lonely_items_are_zero() -> None:
    items = ["x", "a", "b", "y", "c", "d", "lonely"]
    sequences = [["x", "a"], ["b", "x"], ["y", "c"], ["d", "y"], ["lonely"]]
    vectors = cooccurrence_embeddings(items, sequences, window=1, dim=4, seed=0)
    similarity = vectors @ vectors.T
    assert similarity[1, 2] == pytest.approx(1, abs=1e-4)
    assert similarity[1, 4] == pytest.approx(0, abs=1e-4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1] * 6 + [0], abs=1e-5)


def test_texts_that_share_words_are_near_and_empty_ones_are_zero() -> None:
    vectors = tfidf_embeddings(["star war space", "space war", "love in paris", "paris love story", " "], 2, seed=0)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.9
    assert similarity[2, 3] > 0.9
    assert abs(similarity[0, 2]) < 0.1
    assert not vectors[4].any()


@pytest.mark.parametrize("texts", [["", " "], ["the", "..."]])
def test_no_words_at_all_give_zeros(texts: list[str]) -> None:
    vectors = tfidf_embeddings(texts, 4, seed=0)
    assert len(vectors) == 2
    assert not vectors.any()


def test_weights_are_shares_of_the_squared_length() -> None:
    settings = BuildIdentifiers(text_weight=0.5, cooccurrence_weight=2.0, embedding_dim=2)
    vectors = item_embeddings(["a", "b"], ["war", "love"], [["a", "b"]], settings)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose((vectors**2).sum(1), 2.5, rtol=1e-5)
    text_only = item_embeddings(["a", "b"], ["war", "love"], [["a", "b"]], BuildIdentifiers(cooccurrence_weight=0))
    np.testing.assert_allclose((text_only**2).sum(1), 1, rtol=1e-5)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A random BERT of two layers with a vocabulary of nine words."""
    folder = tmp_path / "encoder"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return folder


def test_sentence_encoder_pools_over_what_is_no_padding(encoder: Path) -> None:
    together = encode_sentences(["space", "love paris love", ""], str(encoder))
    alone = encode_sentences(["space"], str(encoder))
    assert together.shape == (3, 8)
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)
    model = BertModel.from_pretrained(encoder).train(False)
    with torch.inference_mode():
        states = model(torch.tensor([[2, 5, 3]])).last_hidden_state  # [CLS] space [SEP]
    np.testing.assert_allclose(alone[0], states[0].mean(0).numpy(), atol=1e-5)
    assert not together[2].any()


def test_sentence_encoder_cuts_long_texts(encoder: Path) -> None:
    long = encode_sentences(["war " * 50, "war " * 14], str(encoder))
    np.testing.assert_allclose(long[0], long[1], atol=1e-5)


def test_sentence_encoder_takes_the_place_of_tfidf(encoder: Path) -> None:
    settings = BuildIdentifiers(sentence_encoder=str(encoder), cooccurrence_weight=0)
    vectors = item_embeddings(["a", "b"], ["space", ""], [], settings)
    assert vectors.shape == (2, 8)
    np.testing.assert_allclose((vectors**2).sum(1), [1, 0], atol=1e-5)


def test_a_wrong_encoder_folder_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        encode_sentences(["x"], str(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot load a model") as caught:
        encode_sentences(["x"], str(tmp_path))
    assert "\n" not in str(caught.value)
