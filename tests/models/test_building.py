import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from atspeed_core.errors import UserError
from atspeed_core.models.building import (
    add_dropout,
    build_model,
    load_base,
    load_base_draft,
    load_model,
    load_prompt_encoder,
    save_model,
    start_from_codebooks,
)
from atspeed_core.models.lora import merged, with_lora
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.tokenizer import build_tokenizer, code_token_ids
from atspeed_core.settings import Lora
from tests.complete_params import Architecture
from tests.tiny_models import make_catalog

CATALOG = make_catalog([(a, b) for a in range(3) for b in range(3)])
SHAPE = Architecture(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, dropout=0.5)


def save_base(folder, *, tied=True, kind="llama"):
    words = ["<unk>", "<s>", "</s>", "the", "user", "liked", ":"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    if kind == "gpt2":
        GPT2LMHeadModel(GPT2Config(vocab_size=7, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
        return folder
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(vocab_size=7, tie_word_embeddings=tied, **shape)).save_pretrained(folder)
    return folder


def test_weights_depend_on_the_seed_alone():
    tokenizer = build_tokenizer(CATALOG.code_tokens)
    first, again, other = (build_model(SHAPE, tokenizer, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_code_embeddings_start_as_rotated_codebook_vectors():
    tokenizer = build_tokenizer(CATALOG.code_tokens)
    model = build_model(SHAPE, tokenizer, seed=1)
    ids = code_token_ids(tokenizer, CATALOG.code_tokens)
    vectors = np.random.default_rng(0).normal(size=(len(ids), 5)).astype(np.float32)
    before = model.get_input_embeddings().weight[:2].clone()
    start_from_codebooks(model, ids, vectors, seed=3)
    rows = model.get_input_embeddings().weight[ids].detach()
    cosine = torch.nn.functional.cosine_similarity
    expected = cosine(torch.from_numpy(vectors)[:, None], torch.from_numpy(vectors)[None], dim=-1)
    torch.testing.assert_close(cosine(rows[:, None], rows[None], dim=-1), expected, atol=1e-4, rtol=0)
    assert float(rows.std()) == pytest.approx(model.config.initializer_range, rel=0.01)
    assert torch.equal(model.get_input_embeddings().weight[:2], before)


def test_dropout_acts_in_training_alone_and_is_not_saved(tmp_path):
    tokenizer = build_tokenizer(CATALOG.code_tokens)
    model = build_model(SHAPE, tokenizer, seed=1)
    add_dropout(model, 0.5)
    ids = torch.tensor([[1, 2, 5, 3]])
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    model.eval()
    save_model(tmp_path / "model", model, tokenizer, instruction="")
    torch.testing.assert_close(load_model(tmp_path / "model")(ids).logits, model(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_code_rows_alone_and_merges_away(tmp_path, tied):
    model, tokenizer = load_base(str(save_base(tmp_path / "base", tied=tied)), CATALOG.code_tokens)
    old_rows = model.get_input_embeddings().weight[:7].detach().clone()
    old_head = model.get_output_embeddings().weight[:7].detach().clone()
    adapted = with_lora(model, tokenizer, CATALOG.code_tokens, Lora(rank=2, dropout=0.0), seed=0)
    encoder = PromptEncoder.build(tokenizer, CATALOG, instruction="the user liked :", max_history=5)
    ids, mask = encoder.encode([["1", "2", "3"]])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    before = adapted(input_ids=ids, attention_mask=mask).logits
    torch.nn.functional.cross_entropy(before[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    adapted.eval()
    trained = adapted(input_ids=ids, attention_mask=mask).logits.detach()
    assert not torch.allclose(trained, before, atol=1e-3)
    plain = merged(adapted)
    torch.testing.assert_close(plain(input_ids=ids, attention_mask=mask).logits, trained, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.get_input_embeddings().weight[:7], old_rows)
    torch.testing.assert_close(plain.get_output_embeddings().weight[:7], old_head)
    save_model(tmp_path / "model", plain, tokenizer, instruction="the user liked :")
    torch.testing.assert_close(
        load_model(tmp_path / "model")(input_ids=ids, attention_mask=mask).logits, trained, atol=1e-5, rtol=1e-4
    )
    again = load_prompt_encoder(tmp_path / "model", CATALOG, max_history=5)
    assert again.encode([["1", "2", "3"]])[0].tolist() == ids.tolist()


def test_the_instruction_stands_before_every_history(tmp_path):
    _, tokenizer = load_base(str(save_base(tmp_path / "base")), CATALOG.code_tokens)
    encoder = PromptEncoder.build(tokenizer, CATALOG, instruction="the user liked :", max_history=5)
    ids, _ = encoder.encode([["4"]])
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["<s>", "the", "user", "liked", ":", "<a_1>", "<b_1>"]


def test_an_unsupported_architecture_is_refused(tmp_path):
    with pytest.raises(UserError, match="'gpt2' is not supported"):
        load_base(str(save_base(tmp_path / "base", kind="gpt2")), CATALOG.code_tokens)


def test_a_missing_base_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"base model '.*nowhere' cannot be loaded"):
        load_base(str(tmp_path / "nowhere"), CATALOG.code_tokens)


def test_a_tokenizer_of_other_identifiers_is_refused(tmp_path):
    tokenizer = build_tokenizer(CATALOG.code_tokens)
    save_model(tmp_path / "model", build_model(SHAPE, tokenizer, seed=1), tokenizer, instruction="")
    with pytest.raises(UserError, match="must come from the same run"):
        load_prompt_encoder(tmp_path / "model", make_catalog([(7, 7)]), max_history=5)


def test_a_folder_without_its_prompt_is_refused(tmp_path):
    AutoTokenizer.from_pretrained(save_base(tmp_path / "base")).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "prompt.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(UserError, match=r"prompt.json: cannot be read"):
        load_prompt_encoder(tmp_path / "model", CATALOG, max_history=5)


def test_rows_without_a_token_are_no_start_for_a_code(tmp_path):
    save_base(tmp_path / "base")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    padded = LlamaForCausalLM(LlamaConfig(vocab_size=12, **shape))  # the tokenizer knows 7 tokens
    with torch.no_grad():
        padded.model.embed_tokens.weight[7:] = 100.0
    padded.save_pretrained(tmp_path / "base")
    model, tokenizer = load_base(str(tmp_path / "base"), CATALOG.code_tokens)
    rows = model.get_input_embeddings().weight.detach()
    assert len(rows) == len(tokenizer) == 7 + len(CATALOG.code_tokens)
    assert float(rows.abs().max()) < 1
    torch.testing.assert_close(rows[:7], padded.model.embed_tokens.weight[:7].detach())


def test_a_base_draft_takes_the_targets_tokens(tmp_path):
    base = str(save_base(tmp_path / "base"))
    _, tokenizer = load_base(str(save_base(tmp_path / "target")), CATALOG.code_tokens)
    draft = load_base_draft(base, tokenizer)
    rows = draft.get_input_embeddings().weight.detach()
    assert len(rows) == len(tokenizer)
    assert draft.config.pad_token_id == tokenizer.pad_token_id
    torch.testing.assert_close(rows[:7], load_model(base).get_input_embeddings().weight.detach())
    save_model(tmp_path / "draft", draft, tokenizer, instruction="")
    again = load_base_draft(str(tmp_path / "draft"), tokenizer)  # as a champion's draft is taken over
    torch.testing.assert_close(again.get_input_embeddings().weight.detach(), rows)


def test_a_base_draft_of_another_family_is_refused(tmp_path):
    base = str(save_base(tmp_path / "base"))
    with pytest.raises(UserError, match=r"draft's base model '.*': \d+ tokens differ from the target's .*one family"):
        load_base_draft(base, build_tokenizer(CATALOG.code_tokens))
