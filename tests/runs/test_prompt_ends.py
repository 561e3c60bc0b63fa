"""Where a prompt ends: at its own last token for a decoder, at [SEP] for an encoder, whatever the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from cases import MODELS
from tokenizers import processors

import blob_pyro as bp
from blob_pyro.config.sections import DataConfig
from blob_pyro.data.batches.prompt_tokens import TokenizerWarning
from blob_pyro.runs.build import encode_items


def with_an_encoders_tokenizer(name: str) -> tuple[bp.BayesianLoRA, Any]:
    model, tokenizer = MODELS[name](), bp.load_tokenizer(str(tiny.llama()))
    tokenizer.add_special_tokens({"cls_token": "<s>", "sep_token": "</s>"})
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    model.tokenizer, model.network.get_base_model().config.vocab_size = tokenizer, len(tokenizer)
    model.network.get_base_model().resize_token_embeddings(len(tokenizer))
    return model, tokenizer


@pytest.mark.parametrize(("name", "closed"), [("llama", False), ("llama_classifier", False), ("bert", True)])
@pytest.mark.filterwarnings("ignore::blob_pyro.data.batches.prompt_tokens.TokenizerWarning")
def test_a_run_reads_its_items_so(name: str, closed: bool) -> None:
    model, tokenizer = with_an_encoders_tokenizer(name)
    data = DataConfig(train_file="items.jsonl", prompt="{text}", max_length=40)
    (item,) = encode_items([bp.Example("What a day", 0, "a")], model, data, "items.jsonl").items
    own = tokenizer("What a day", add_special_tokens=False)["input_ids"]
    assert item.input_ids == (tokenizer.cls_token_id, *own, *[tokenizer.sep_token_id] * closed)


def test_a_text_is_written_behind_the_prompt_itself() -> None:
    model, tokenizer = with_an_encoders_tokenizer("llama")
    with pytest.warns(TokenizerWarning, match="'</s>' behind a text"):
        found = bp.generate(model, bp.BLoBGuide(model), "What a day", num_draws=0, max_new_tokens=1)
    own = tokenizer("What a day", add_special_tokens=False)["input_ids"]
    assert found.prompts == ((tokenizer.cls_token_id, *own),)
