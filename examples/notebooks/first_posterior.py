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
# # Your first posterior
#
# A PEFT model becomes a Pyro model with one line, and plain `pyro.infer.SVI` learns a Gaussian over its LoRA matrices.
# You see what a posterior over an adapter is, how to ask it for answers, and what to look at afterwards.
#
# The network is all-MiniLM-L6-v2, an encoder of 22 million parameters, and the data are 800 tweets graded as negative,
# neutral or positive. Both come inside PyPI packages: nothing is fetched.

# %% [markdown]
# ## Twenty lines
#
# Up to `get_peft_model` this is what PEFT's own documentation does. `BayesianLoRA` then turns the A matrix of every
# adapted layer into a sample site with the prior Normal(0, 0.2²); the B matrices and the classification head stay
# ordinary parameters. `BLoBGuide` is the posterior: a mean (PEFT's own A, which starts where PEFT starts it) and a
# standard deviation for each entry. Model, guide, ELBO and optimiser are Pyro's from there on.

# %% tags=["hide-input"]
# Only to keep the libraries' own notes and progress bars off this page.
import logging
import warnings

from transformers.utils import logging as transformers_logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

# %%
import pyro
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import blob_pyro as bp
from blob_pyro.system.packaged import packaged_model

pyro.set_rng_seed(0)
folder = packaged_model("minilm")  # or the name of a model on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
lora = LoraConfig(task_type="SEQ_CLS", lora_alpha=16, target_modules=["query", "value"], layers_to_transform=[4, 5])
network = get_peft_model(base, lora)

tweets = bp.load_task(bp.DataConfig(task="tweets", num_train=800, num_test=150), seed=0)
train, test = (bp.encode(part, tokenizer, max_length=64) for part in (tweets.train, tweets.test))
model = bp.BayesianLoRA(network, bp.SequenceClassification(3), num_data=len(train))
guide = bp.BLoBGuide(model)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), pyro.infer.TraceMeanField_ELBO())
with bp.flipout():  # each tweet of a batch sees a draw of its own
    losses = [svi.step(batch) for batch in bp.train_loader(train, 8, tokenizer.pad_token_id, seed=0)]
predictions = bp.PosteriorPredictive(model, guide, num_samples=8)(bp.predict_loader(test, 64, tokenizer.pad_token_id))
print(bp.evaluate(predictions))

# %% [markdown]
# That is all. One pass over the tweets is 100 steps of eight; eight draws then answer 150 other tweets. About half of
# those are negative: that much accuracy would be had for nothing. `accuracy_se` and the others are standard errors.
#
# ## What was learnt
#
# `model.sites` names the sample sites, one for each adapted layer, and the guide knows the posterior at each of them.
# The spread began between 0.00125 and 0.0025, and the prior wants it at 0.2.

# %%
import matplotlib.pyplot as plt
import torch

from blob_pyro.report.plots import draws_histogram, reliability_diagram

site = "base_model.model.bert.encoder.layer.5.attention.self.value.lora_A"
print(len(model.sites), "sites; one of them:", site)
print("posterior:", guide.posterior(site))

with torch.no_grad():
    scales = torch.cat([guide.scale(name).flatten() for name in model.sites])
    means = torch.cat([guide.loc(name).flatten() for name in model.sites])
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
axes[0].hist(means.numpy(), bins=60, range=(-0.06, 0.06), color="#0072B2")
axes[0].set(xlabel="posterior mean of an entry", ylabel="entries")
axes[1].hist(scales.numpy(), bins=60, range=(0, 0.21), color="#0072B2")
axes[1].axvspan(0.00125, 0.0025, color="#009E73", label="at the start")
axes[1].axvline(0.2, color="#D55E00", linestyle="--", label="prior")
axes[1].set(xlabel="posterior standard deviation of an entry")
axes[1].legend(frameon=False)
print(f"{len(scales):,} entries; standard deviations {scales.min():.4f} to {scales.max():.4f}")

# %% [markdown]
# All entries have widened by about the same factor: what widened them is the KL, and 100 steps are too few for the
# tweets to hold back those that matter.

# %% [markdown]
# ## What it cost, and a warning
#
# Pyro's loss is the negative ELBO: the negative log-likelihood of all 800 tweets plus the KL of the posterior from the
# prior, both in nats. The second dwarfs the first, since there are 12,288 random entries and 800 labels.

# %%
kl = guide.kl().item()
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(range(1, len(losses) + 1), losses, color="#0072B2")
ax.axhline(kl, color="#D55E00", linestyle="--")
ax.annotate(f"KL at the end: {kl:,.0f} nats", (1, kl), xytext=(0, 4), textcoords="offset points", color="#D55E00")
ax.set(xlabel="step", ylabel="negative ELBO, nats", ylim=(0, None))
ax.spines[["top", "right"]].set_visible(False)
print(f"the first loss {losses[0]:,.0f}; the last {losses[-1]:,.0f}, of which the KL is {kl:,.0f} nats")

# %% [markdown]
# This is the textbook objective, and where it would lead with many more steps is the prior itself: a posterior that
# has forgotten the tweets. A hundred steps at this learning rate stop long before. BLoB's own recipe, `bp.fit`,
# descends the KL in a step of its own, with a learning rate of its own and in a few pulses; or `bp.BayesianLoRA(...,
# num_data=100 * len(train))` makes the KL count a hundred times less in Pyro's ELBO. How wide the posterior should be
# is a choice, and it should not be hidden.
#
# ## Answers under the draws
#
# Each draw is a whole network. For one tweet they may agree or not: the rows are the three classes, the triangle is
# the average, which is the answer, and the star marks the true class. Here are the tweets on which they agree least
# and most (by the mutual information of label and weights).

# %%
from blob_pyro.evaluation import mutual_information

information = mutual_information(predictions.draws)
items = [int(information.argmax()), int(information.argmin())]
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for item, ax in zip(items, axes, strict=True):
    draws_histogram(predictions, item, class_names=["negative", "neutral", "positive"], ax=ax)
    print(f"item {item}, {information[item]:.4f} nats: {tweets.test[item].prompt.splitlines()[0]}")

# %% [markdown]
# Are the probabilities honest? The hatched part of a bar is its gap: above the blue, answers were surer than they were
# right; within it, they were right more often than they were sure.

# %%
figure, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
_ = reliability_diagram(predictions, ax=ax)

# %% [markdown]
# A single run says little: 150 tweets cannot tell an ECE of 8 % from one of 12. Little, too, comes from averaging
# here: with a spread a sixth of the prior's the draws hardly disagree. In "Comparing guides" the same network and
# tweets meet other posteriors, wider ones among them.
