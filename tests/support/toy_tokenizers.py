"""Tokenizers of the two common kinds, trained on a few sentences."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Tweet: the flight was late and the crew was lovely\nSentiment: negative neutral positive",
    "Passage: a passage about rain, birds and the sea.\nQuestion: is it true?\nAnswer: yes no",
] * 4


def byte_level(trim_offsets: bool) -> PreTrainedTokenizerFast:
    """Like GPT-2 or SmolLM2: byte-level BPE, no special tokens added, decodes to the exact text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", model_max_length=16)


def word_level() -> PreTrainedTokenizerFast:
    """Like BERT: words and marks, [CLS] and [SEP] around them."""
    inner = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)
