"""Prompts of `generate`, as a tokenizer reads them that adds tokens by itself."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from cases import pretrained
from tokenizers import processors

import blob_pyro as bp
from blob_pyro.data.batches.prompt_tokens import TokenizerWarning
from blob_pyro.errors import DataError


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_tokenizer_makes_is_read_as_its_ids(side: str) -> None:
    """A mapping is a list of its keys as well: "input_ids", "attention_mask"."""
    model = pretrained()
    prompts = model.tokenizer(["w5 w6", "w7"], return_tensors="pt", padding=True, padding_side=side)
    for form in (prompts, dict(prompts)):
        found = bp.generate(model, bp.BLoBGuide(model), form, num_draws=0, max_new_tokens=3)
        assert found.prompts == ((5, 6), (7,))
        assert (
            found.texts == bp.generate(model, bp.BLoBGuide(model), ["w5 w6", "w7"], num_draws=0, max_new_tokens=3).texts
        )


NO_PROMPTS: dict[str, Any] = {
    "None": None,
    "chat messages": [{"role": "user", "content": "w5"}],
    "a tensor": torch.tensor([[5, 6]]),
    "ids": [5, 6],
    "a text and None": ["w5", None],
    "bytes": b"w5",
    "a mapping of lists": {"input_ids": [[5, 6]]},
    "a mapping without ids": {"text": "w5"},
}


@pytest.mark.parametrize("kind", NO_PROMPTS)
def test_anything_but_texts_and_ids_is_one_line(kind: str) -> None:
    model = pretrained()
    with pytest.raises(DataError, match=r"^(prompts|batch): expected [^\n]*$"):
        bp.generate(model, bp.BLoBGuide(model), NO_PROMPTS[kind], num_draws=0, max_new_tokens=2)
