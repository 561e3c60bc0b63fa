"""The items to look at: the most confident mistakes, and those of which a run is least certain."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blob_pyro.evaluation import mutual_information, predictive_entropy
from blob_pyro.storage.answers import SavedAnswers
from blob_pyro.storage.completions import SavedTexts

LONGEST = 1200
"""Characters of a text that are shown; how many more there are is said."""


@dataclass(frozen=True)
class ShownItem:
    """One item as a report shows it.

    Attributes:
        name: its id.
        text: its prompt, and of a scored text its completion behind it.
        completion: of a scored text, else empty.
        verdict: "right" or "wrong", or nothing.
        facts: what else to tell, name and value.
    """

    name: str
    text: str
    completion: str
    verdict: str
    facts: tuple[tuple[str, str], ...]


def confident_mistakes(answers: SavedAnswers, count: int) -> list[ShownItem]:
    """The wrong answers of the highest confidence, the surest first; of equal ones the first."""
    predictions = answers.predictions
    assert predictions.labels is not None
    confidence, predicted = predictions.probs.max(-1)
    wrong = (predicted != predictions.labels).nonzero()[:, 0]
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    return [_answered(answers, item) for item in order[:count].tolist()]


def uncertain_items(answers: SavedAnswers, count: int) -> list[ShownItem]:
    """The items whose averaged probabilities have the highest entropy, the least certain first."""
    order = predictive_entropy(answers.predictions.probs).argsort(descending=True, stable=True)
    return [_answered(answers, item) for item in order[:count].tolist()]


def improbable_texts(texts: SavedTexts, count: int) -> list[ShownItem]:
    """The texts of the highest perplexity, the most surprising first; those without a token are left out."""
    return _sorted_texts(texts, "perplexity", count)


def uncertain_texts(texts: SavedTexts, count: int) -> list[ShownItem]:
    """The texts whose next tokens have the highest mean entropy, the least certain first."""
    return _sorted_texts(texts, "entropy", count)


def _answered(answers: SavedAnswers, item: int) -> ShownItem:
    predictions, names = answers.predictions, answers.class_names
    assert predictions.labels is not None
    probs = predictions.probs[item]
    label, predicted = int(predictions.labels[item]), int(probs.argmax())
    facts = [
        ("answer", f"{names[predicted]} ({float(probs[predicted]):.3f})"),
        ("label", f"{names[label]} ({float(probs[label]):.3f})"),
    ]
    if predictions.shares is not None:
        shares = zip(names, predictions.shares[item].tolist(), strict=True)
        facts.append(("annotators", ", ".join(f"{name} {share:.2f}" for name, share in shares if share)))
    facts.append(("entropy", f"{float(predictive_entropy(probs[None])):.3f} nats"))
    if len(predictions.draws) > 1:
        draws = predictions.draws[:, item]
        agree = int((draws.argmax(-1) == predicted).sum())
        facts.append(("mutual information", f"{float(mutual_information(draws[:, None])):.3f} nats"))
        facts.append(("draws that agree", f"{agree} of {len(draws)}"))
    verdict = "right" if predicted == label else "wrong"
    return ShownItem(answers.ids[item], shortened(answers.prompts[item]), "", verdict, tuple(facts))


def _sorted_texts(texts: SavedTexts, score: str, count: int) -> list[ShownItem]:
    there = [item for item in range(len(texts)) if texts.scores[item][score] is not None]
    values = torch.tensor([float(texts.scores[item][score]) for item in there], dtype=torch.float64)
    return [_scored(texts, there[k]) for k in values.argsort(descending=True, stable=True)[:count].tolist()]


def _scored(texts: SavedTexts, item: int) -> ShownItem:
    scores = texts.scores[item]
    facts = (
        ("perplexity", f"{scores['perplexity']:.4g}"),
        ("log-probability", f"{scores['log_prob']:.2f} nats, {scores['num_tokens']} tokens"),
        ("entropy", f"{scores['entropy']:.3f} nats per token"),
        ("mutual information", f"{scores['mutual_information']:.4f} nats per token"),
    )
    return ShownItem(texts.ids[item], shortened(texts.prompts[item]), shortened(texts.completions[item]), "", facts)


def shortened(text: str) -> str:
    """The text, or its beginning and end and how much is between them.

    Example:
        >>> shortened("a" * 600 + "b" * 3000 + "c" * 600)[596:637]
        'aaaa … [3,000 characters left out] … cccc'
    """
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} characters left out] … {text[-half:]}"
