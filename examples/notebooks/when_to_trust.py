# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When to trust an answer
#
# A network need not answer everything. You see how to choose what it answers so that a promise holds (selective
# prediction), and what its uncertainty says of texts that are no tweets at all (out of distribution), with plain LoRA
# beside BLoB.
#
# All figures are from one seed and a few hundred items; ± are standard errors.

# %%
import matplotlib.pyplot as plt
import pyro
import torch

import blob_pyro as bp
from blob_pyro.evaluation import mutual_information, predictive_entropy
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.guides import AdapterGuide
from blob_pyro.report import markdown_table, metrics_table
from blob_pyro.report.plots import draws_histogram, risk_coverage_plot
from blob_pyro.system.terminal import quiet_libraries

# %% [markdown]
# ## Two posteriors
#
# MiniLM learns the sentiment of 120 tweets in eight passes over them, as plain LoRA and with BLoB. Two more groups of
# tweets take no part in the training: 100 *held-out* ones, by which thresholds are chosen, and 200 *new* ones, on
# which we see what became of the promises.

# %%
tweets = bp.load_task(bp.DataConfig(task="tweets", num_train=120, num_validation=100, num_test=200), seed=0)
tokenizer = bp.load_tokenizer("minilm")
pad = tokenizer.pad_token_id
train = bp.encode(tweets.train, tokenizer, max_length=64)
GROUPS = {"held out": tweets.validation, "new": tweets.test}
config = bp.TrainConfig(num_steps=120, batch_size=8, lr=5e-3)


def answer(model: bp.BayesianLoRA, guide: AdapterGuide, examples: list[bp.Example]) -> Predictions:
    """Six draws, or one answer of a point."""
    items = bp.encode(examples, tokenizer, max_length=64)
    return bp.PosteriorPredictive(model, guide, 6 if guide.is_random else 0)(bp.predict_loader(items, 64, pad))


models, guides, held_out, new = {}, {}, {}, {}
for name, build in {"plain LoRA": bp.MLEGuide, "BLoB": bp.BLoBGuide}.items():
    pyro.set_rng_seed(0)
    with quiet_libraries():
        models[name] = bp.BayesianLoRA.from_pretrained(
            "minilm", bp.SequenceClassification(3), num_data=len(train),
        )  # fmt: skip
    guides[name] = build(models[name])
    bp.fit(models[name], guides[name], bp.train_loader(train, 8, pad, seed=0), config, progress=False)
    held_out[name] = answer(models[name], guides[name], tweets.validation)
    new[name] = answer(models[name], guides[name], tweets.test)
print(metrics_table({name: bp.evaluate(predictions) for name, predictions in new.items()}))

# %% [markdown]
# ## Answer the surest first
#
# Order the new tweets by confidence and answer from the top. The curve shows the share of errors so far: it should
# fall to the left. The area under it (AURC) is the lower the better, and asks only for the order, not for honest
# probabilities.

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
_ = risk_coverage_plot(new, ax=ax)

# %% [markdown]
# The bands are 95 % intervals, and they overlap nearly everywhere: that BLoB errs less often on all tweets is the one
# difference that may be more than chance. Among the very surest, plain LoRA's order is no worse. A posterior that is
# less sure of everything is better calibrated, and need not sort any better.
#
# ## A promise
#
# A confidence of 90 % promises nothing: plain LoRA says it of many tweets on which it is wrong.
# `bp.guaranteed_selection` takes a threshold from the held-out tweets, such that with 95 % certainty at most the
# target share of the answers on new ones is wrong, whatever the network and however badly calibrated. What is not sure
# enough is left unanswered.

# %%
labels = torch.tensor([example.label for example in tweets.test])
rows = []
for name, predictions in new.items():
    sure = predictions.probs.max(-1).values > 0.9
    wrong = predictions.probs.argmax(-1).ne(labels)
    rows.append([name, "confidence above 90 %", str(int(sure.sum())), f"{100 * wrong[sure].float().mean():.0f}"])
    for target in (0.4, 0.3):
        answered = bp.guaranteed_selection(held_out[name], target)(predictions)
        risk = f"{100 * wrong[answered].float().mean():.0f}" if answered.any() else "–"
        rows.append([name, f"at most {100 * target:.0f} % wrong, promised", str(int(answered.sum())), risk])
print(markdown_table(["posterior", "rule", "answered of 200", "wrong %"], rows))

# %% [markdown]
# Of plain LoRA's answers above 90 % a third were wrong; BLoB gave a third as many, and of them about as few were wrong
# as they say. The promises were kept by both. For the loose one BLoB, which errs less often, answered more; the strict
# one asks for the order of the very surest alone, and there plain LoRA's was no worse: it answered more. A hundred
# held-out tweets prove little, which is why fewer are answered than the risks on the right would allow.
#
# ## Texts of another kind
#
# Thirty-two texts that are not tweets, in the same prompt: recipes, code, German, chemistry, law, and nonsense.
# Neither posterior has seen their like, and "negative, neutral or positive" is not a sensible question for them.

# %%
OTHERS = """
Bring a large pot of salted water to the boil and cook the pasta until al dente.
Fold in the flour, then chill the dough for an hour before rolling it out.
Reduce the sauce by half over a low flame and strain it through a sieve.
Preheat the oven to 180 degrees and line a tin with baking paper.
for i in range(10): print(i ** 2)
SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;
int main(void) { return EXIT_SUCCESS; }
git rebase --interactive HEAD~3 && git push --force-with-lease
Der Zug nach Hamburg hat heute voraussichtlich zehn Minuten Verspätung.
Die Blätter fallen, fallen wie von weit.
Bitte schließen Sie die Tür, wenn Sie den Raum verlassen.
Am Sonntag wandern wir durch den Wald bis zur alten Mühle.
Sodium chloride dissolves readily in water but hardly in ethanol.
The enthalpy of formation of an element in its standard state is zero.
Catalytic hydrogenation of alkenes proceeds with syn addition.
Titrate the solution with 0.1 M hydrochloric acid until the indicator turns.
The lessee shall indemnify the lessor against all claims arising from the use of the premises.
This agreement is governed by the laws of the State of Delaware.
Notwithstanding clause 4, either party may terminate upon thirty days' written notice.
The plaintiff bears the burden of proof as to each element of the claim.
lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod
qwx zzkp vrrt lmnq hhgt ppow xkcd brrg
7 3 9 1 4 4 2 8 6 0 5 5 1 9 3
aaaa aaaa aaaa aaaa aaaa aaaa aaaa
Let G be a finite group and H a normal subgroup of index p.
The integral of a continuous function over a compact set exists.
Every bounded sequence of real numbers has a convergent subsequence.
If n is odd, then n squared is congruent to 1 modulo 8.
Bishop to c4, knight to f3, castles kingside.
The allegro opens in D minor with a descending figure in the cellos.
Stratocumulus at 3000 feet, wind 240 degrees at 12 knots.
Cast on 64 stitches and join in the round, taking care not to twist.
""".strip().splitlines()
strangers = [bp.Example(f"Tweet: {text}\nSentiment:", None, text) for text in OTHERS]
outside = {name: answer(models[name], guides[name], strangers) for name in models}

figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
for (name, predictions), ax in zip(outside.items(), axes, strict=True):
    found = bp.auroc_out_of_distribution(new[name], predictions)
    by_draws = f", by mutual information {found.mutual_information:.2f}" if guides[name].is_random else ""
    print(f"{name}: AUROC by entropy {found.entropy:.2f}{by_draws}")
    for part, colour, label in ((new[name], "#0072B2", "new tweets"), (predictions, "#D55E00", "no tweets")):
        entropies = predictive_entropy(part.probs).numpy()
        ax.hist(
            entropies, bins=11, range=(0, 1.1), density=True, histtype="step", linewidth=2, color=colour, label=label
        )
    ax.set(title=name, xlabel="entropy of the answer, nats (log 3 = 1.10)")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel="density")
legend = axes[0].legend(frameon=False, loc="upper right")

# %% [markdown]
# An AUROC of 0.5 is chance; with 32 such texts its standard error is about 0.055. By entropy neither tells them from
# tweets by much more than the noise. The draws' disagreement (mutual information, which a point does not have) does
# better. It is a modest signal, and no alarm to rely on: the network reads everything as a tweet.
#
# As a test with a promise, `bp.ood_p_values` compares a text with the held-out tweets: of tweets at most 5 % get a
# p-value of 0.05 or below, on average over sets of held-out tweets (these hundred, and 200 new ones, tell it to ± 2.7
# points). How many of the others are caught is what the signal is worth.

# %%
for score in ("entropy", "bald"):
    caught = bp.ood_p_values(held_out["BLoB"], outside["BLoB"], score) <= 0.05
    false_alarms = bp.ood_p_values(held_out["BLoB"], new["BLoB"], score) <= 0.05
    print(
        f"{score}: {int(caught.sum())} of {len(caught)} caught; {int(false_alarms.sum())} of {len(false_alarms)} tweets"
    )

item = int(mutual_information(outside["BLoB"].draws).argmax())
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for (name, predictions), ax in zip(outside.items(), axes, strict=True):
    draws_histogram(predictions, item, class_names=["negative", "neutral", "positive"], ax=ax)
    ax.set_title(name)
print(OTHERS[item])

# %% [markdown]
# ## What to take from it
#
# - Choose what to answer by held-out items, not by the probability alone: the promise then holds for any network.
# - Better probabilities buy more answers at the same promise; they are no promise themselves.
# - Uncertainty about the *label* is not knowledge of what is foreign. Where foreign inputs matter, measure on some of
#   them.
