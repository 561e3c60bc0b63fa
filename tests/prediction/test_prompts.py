"""Prompts of `generate`, as a tokenizer reads them that adds tokens by itself."""

from __future__ import annotations

import pytest
import tiny
from tokenizers import processors

import blob_pyro as bp
from blob_pyro.data.batches.prompt_tokens import TokenizerWarning


def test_a_text_goes_on_from_the_prompts_own_last_token():
    """As without what the tokenizer adds behind it, and with one BOS."""
    model = bp.BayesianLoRA.from_pretrained(str(tiny.llama()), bp.CausalLM(), r=2, num_data=1)
    guide = bp.BLoBGuide(model)

    def texts() -> tuple:
        prompts = ["What a day", "<s>What a day"]
        return bp.generate(model, guide, prompts, num_draws=0, max_new_tokens=6).texts

    special = [("<s>", model.tokenizer.bos_token_id), ("</s>", model.tokenizer.eos_token_id)]
    backend = model.tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=special)
    with pytest.warns(TokenizerWarning, match="puts '<s>' in front of a text: prompts that begin with it have it once"):
        expected = texts()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    with (
        pytest.warns(TokenizerWarning, match="puts '</s>' behind a text"),
        pytest.warns(TokenizerWarning, match="'<s>'"),
    ):
        assert texts() == expected
    assert expected[0] == expected[1]
