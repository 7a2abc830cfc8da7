"""Tokenizers that know the catalog's codes: a small one of our own, or a base model's with the codes added."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from atspeed_core.errors import UserError

PAD, BOS = "<pad>", "<bos>"


def build_tokenizer(code_tokens: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose whole vocabulary is <pad>, <bos> and the codes."""
    vocabulary = {token: i for i, token in enumerate([PAD, BOS, *code_tokens])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS)


def add_codes(tokenizer: PreTrainedTokenizerBase, code_tokens: list[str]) -> None:
    """Add the codes, in order, as tokens of their own; give the tokenizer a padding token if it has none."""
    tokenizer.add_tokens(code_tokens, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def code_token_ids(tokenizer: PreTrainedTokenizerBase, code_tokens: list[str]) -> list[int]:
    """Token id of each code.

    Raises:
        UserError: the tokenizer lacks codes of this catalog (model and identifiers do not belong together).
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in code_tokens if token not in vocabulary]
    if missing:
        raise UserError(
            f"{tokenizer.name_or_path or 'tokenizer'}: {len(missing)} code tokens of the identifiers file are unknown "
            f"to it (first: {missing[0]}); model and identifiers must come from the same run"
        )
    return [vocabulary[token] for token in code_tokens]
