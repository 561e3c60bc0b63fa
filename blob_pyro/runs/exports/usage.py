"""The code of a model card: how to load what was exported, with plain PEFT or transformers and with blob_pyro."""

from __future__ import annotations

import json

from blob_pyro.data.batches.prompt_tokens import tokens_around
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.tasks.load import find_task
from blob_pyro.guides import EnsembleGuide
from blob_pyro.model.architectures import is_decoder
from blob_pyro.model.likelihoods import ClassLikelihood, MultipleChoice, SequenceClassification, WholeAnswer
from blob_pyro.model.vocabulary import context
from blob_pyro.runs.exports.kinds import Kind
from blob_pyro.runs.exports.subject import Subject, public_name
from blob_pyro.system.packaged import ALIASES

Lines = list[str]


def plain_code(subject: Subject, kind: Kind) -> str:
    """Python that answers a prompt without blob_pyro (but for a base that comes inside a package)."""
    names = [f"draw_{position}" for position in range(kind.num_draws)]
    lines = _imports(subject, kind) + _names(subject, kind) + _network(subject, kind, names)
    if isinstance(subject.run.model.likelihood, WholeAnswer):
        return "\n".join(lines + _whole_answers(subject, names))
    copies = " * len(names)" if names else ""
    adapters = ", adapter_names=[name for name in names for _ in prompts]" if names else ""
    if rule := _ids_of(subject):
        lines += [*rule, f"given = [ids_of(prompt) for prompt in prompts{copies}]"]
        lines += ['rows = tokenizer.pad({"input_ids": given}, return_tensors="pt", padding_side="right")']
    else:
        lines += [f'rows = tokenizer(prompts{copies}, return_tensors="pt", padding=True, padding_side="right")']
    lines += ["with torch.no_grad():", f"    logits = network(**rows{adapters}).logits.float()"]
    return "\n".join(lines + _probabilities(subject, names))


def _ids_of(subject: Subject) -> Lines:
    """The library's rule of a prompt's ids, where a call of the tokenizer may give others; else nothing."""
    tokenizer, decodes = subject.run.model.tokenizer, _decodes(subject)
    if tokenizer is None:
        return []
    front, behind = tokens_around(tokenizer, closing=not decodes)
    own, prompt = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", _rendered(subject)))
    may_begin_so = front and (decodes or prompt[:1] == front[-1:])
    if not may_begin_so and tokenizer("a")["input_ids"] == [*front, *own, *behind]:
        return []
    return [
        "",
        "def ids_of(prompt):",
        '    """What begins a text, once, and the prompt\'s own tokens: an answer follows the last of them."""',
        f'    front, ids = {front}, tokenizer(prompt, add_special_tokens=False)["input_ids"]',
        "    shared = next((n for n in range(len(front), 0, -1) if front[-n:] == ids[:n]), 0)",
        f"    return front[: len(front) - shared] + ids{f' + {behind}' if behind else ''}",
        "",
    ]


def _decodes(subject: Subject) -> bool:
    return is_decoder(subject.run.model.network.get_base_model().config)


def own_code(subject: Subject) -> str | None:
    """Python that answers a prompt with the posterior of a mean's folder; None where the folder holds none."""
    if isinstance(subject.guide, EnsembleGuide):
        return None
    by_name = subject.base in ALIASES or public_name(subject.run.model.source.id) == subject.run.model.source.id
    lines = ["import blob_pyro as bp", ""]
    if by_name:
        lines += ['run = bp.load(".")  # the folder of this card', "tokenizer = run.model.tokenizer"]
    else:  # a local folder, whose path is not told
        lines = [f"from transformers import {_auto(subject)}, AutoTokenizer", "", *lines]
        lines += [f"base = {_text(subject.base)}  # the folder of your copy"]
        lines += [f'run = bp.load(".", base={_base_call(subject)})', "tokenizer = AutoTokenizer.from_pretrained(base)"]
        lines += ["tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token"]
    encoders = getattr(subject.run.model.tokenizer, "cls_token_id", None) is not None
    closing = ", closing=False" if encoders and _decodes(subject) else ""
    lines += [
        f"examples = [bp.Example(prompt, None, str(i)) for i, prompt in enumerate({_prompts(subject)})]",
        f"items = bp.encode(examples, tokenizer, max_length={_max_length(subject)}{closing})",
        "loader = bp.predict_loader(items, 16, tokenizer.pad_token_id)",
    ]
    if isinstance(subject.run.model.likelihood, ClassLikelihood):
        draws = 10 if subject.guide.is_random else 0
        lines += [f"print(bp.PosteriorPredictive(run.model, run.guide, num_samples={draws})(loader).probs)"]
    else:
        lines += ["for batch in loader:"]
        lines += ["    print(run.model.logits(batch).softmax(-1).shape)  # of every next token, at the posterior mean"]
    return "\n".join(lines)


def _imports(subject: Subject, kind: Kind) -> Lines:
    quantised = ", BitsAndBytesConfig" if subject.run.model.source.quantization else ""
    lines = ["import torch"]
    if kind.name != "merged":
        lines += ["from peft import PeftModel"]
    lines += [f"from transformers import {_auto(subject)}, AutoTokenizer{quantised}", ""]
    if kind.name != "merged" and subject.base in ALIASES:
        lines.insert(-1, "from blob_pyro.system.packaged import packaged_model")
    return lines


def _names(subject: Subject, kind: Kind) -> Lines:
    lines = ['folder = "."  # of this card']
    if kind.name == "merged":
        return lines
    if subject.base in ALIASES:
        return [*lines, f"base = str(packaged_model({_text(subject.base)}))"]
    return [*lines, f"base = {_text(subject.base)}"]


def _network(subject: Subject, kind: Kind, names: Lines) -> Lines:
    place = "folder" if kind.name == "merged" else "base"
    at = [] if kind.name == "merged" else _revision(subject)
    lines = [f"tokenizer = AutoTokenizer.from_pretrained({', '.join([place, *at])})"]
    lines += ["tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token"]
    if kind.name == "merged":
        lines += [f'network = {_auto(subject)}.from_pretrained(folder, dtype="auto").eval()']
    else:
        lines += [f"network = {_base_call(subject)}"]
    if kind.name == "mean":
        lines += ["network = PeftModel.from_pretrained(network, folder).eval()"]
    if names:
        lines += [
            f'names = [f"draw_{{k}}" for k in range({len(names)})]',
            'network = PeftModel.from_pretrained(network, f"{folder}/draw_0", adapter_name="draw_0")',
            "for name in names[1:]:",
            '    network.load_adapter(f"{folder}/{name}", adapter_name=name)',
            "network.eval()",
        ]
    if isinstance(subject.run.model.likelihood, SequenceClassification):
        lines += ["network.config.pad_token_id = tokenizer.pad_token_id"]
    return [*lines, f"prompts = {_prompts(subject)}"]


def _whole_answers(subject: Subject, names: Lines) -> Lines:
    """Answers of one or more tokens: the log-probabilities of the tokens of each are added."""
    answers = subject.run.model.likelihood.settings()["token_ids"]
    rule = _ids_of(subject)
    lines = [
        *rule,
        f"answers = {answers}  # the tokens of each",
        "",
        "def log_probs(prompt):",
        '    """Of every answer behind the prompt."""',
        "    ids = ids_of(prompt)" if rule else '    ids = tokenizer(prompt)["input_ids"]',
        "    found = []",
        "    for answer in answers:",
        "        with torch.no_grad():",
        "            logits = network(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].float()",
        "        found.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())",
        "    return torch.stack(found)",
        "",
    ]
    if names:
        lines += [
            "draws = []",
            "for name in names:",
            "    network.set_adapter(name)",
            "    draws.append(torch.stack([log_probs(prompt) for prompt in prompts]).softmax(-1))",
            "probs = torch.stack(draws).mean(0)  # the average of the draws",
        ]
    else:
        lines += ["probs = torch.stack([log_probs(prompt) for prompt in prompts]).softmax(-1)"]
    return [*lines, f"print(probs){_columns(subject)}"]


def _columns(subject: Subject) -> str:
    return f"  # columns: {', '.join(repr(label.strip()) for label in subject.labels)}" if subject.labels else ""


def _max_length(subject: Subject) -> int:
    model = subject.run.model
    longest = 512 if subject.config is None else subject.config.data.max_length
    return min(longest, (context(model.network) or longest) - model.likelihood.extra_tokens)


def _probabilities(subject: Subject, names: Lines) -> Lines:
    likelihood = subject.run.model.likelihood
    lines: Lines = []
    if not isinstance(likelihood, SequenceClassification):
        lines += ['last = rows["attention_mask"].sum(1) - 1']
        lines += ["logits = logits[torch.arange(len(last)), last]  # of the token behind each prompt"]
    if isinstance(likelihood, MultipleChoice):
        answers = likelihood.settings()["token_ids"]
        lines += [f"logits = logits[:, {list(answers)}]  # the answers' tokens"]
    if isinstance(likelihood, SequenceClassification) and likelihood.outputs:
        lines += [f"logits = logits[:, {list(likelihood.outputs)}]  # the head's outputs in the order of the labels"]
    lines += ["probs = logits.softmax(-1)"]
    if names:
        lines += ["probs = probs.unflatten(0, (len(names), len(prompts))).mean(0)  # the average of the draws"]
    return [*lines, f"print(probs){_columns(subject) if isinstance(likelihood, ClassLikelihood) else ''}"]


def _auto(subject: Subject) -> str:
    return subject.run.model.likelihood.auto_class


def _revision(subject: Subject) -> Lines:
    """The argument that names the commit of a base of the hub; none of another."""
    revision = subject.run.model.source.revision
    return [] if revision is None else [f"revision={_text(revision)}"]


def _base_call(subject: Subject) -> str:
    """The expression that loads the base as the run did."""
    source = subject.run.model.source
    options = [f"dtype={_text(source.dtype)}", *_revision(subject)]
    if source.quantization == "8bit":
        options += [
            f"quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold={source.llm_int8_threshold})"
        ]
    if source.quantization == "4bit":
        options += [
            'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            "bnb_4bit_compute_dtype=torch.bfloat16)"
        ]
    settings = subject.run.model.likelihood.model_settings()
    options += [f"{name}={value!r}" for name, value in settings.items()]
    options += ["ignore_mismatched_sizes=True"] if source.ignore_mismatched_sizes else []
    return f"{_auto(subject)}.from_pretrained(base, {', '.join(options)})"


def _prompts(subject: Subject) -> str:
    """A list of one prompt, as Python."""
    return f"[{_text(_rendered(subject))}]"


def _rendered(subject: Subject) -> str:
    """A prompt with its fields left open."""
    template = prompt_of(subject)
    if template is None:
        return "..."
    fields = dict.fromkeys(PromptTemplate(template).fields, "...")
    return PromptTemplate(template).render(fields, where="the card")[0]


def _text(text: str) -> str:
    """A Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def prompt_of(subject: Subject) -> str | None:
    """The run's prompt template, where the run says."""
    if subject.config is None:
        return None
    data = subject.config.data
    return find_task(data.task).template.template if data.task is not None else data.prompt
