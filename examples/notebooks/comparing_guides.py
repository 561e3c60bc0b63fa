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
# # Comparing guides
#
# Six posteriors over the same adapter of the same network, from the same start, on the same tweets: BLoB, Bayes by Backprop,
# Pyro's own `AutoNormal`, a low-rank Gaussian, a point (MAP) and Laplace-LoRA. You see what each of them takes to be
# uncertain, how far its draws disagree, and what that does to its answers.
#
# A guide is exchanged by its name; model, data and the rest of the code stay as they are.

# %%
import itertools
import time
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pyro
import torch
from pyro.infer.autoguide import AutoNormal

import blob_pyro as bp
from blob_pyro.guides import AdapterGuide
from blob_pyro.predictions import Predictions
from blob_pyro.report.plots import draws_histogram, methods_plot, reliability_diagrams
from blob_pyro.report.table import metrics_table
from blob_pyro.report.terminal import quiet_libraries

# %% [markdown]
# ## One model, one set of tweets
#
# MiniLM with rank-8 adapters on the query and value layers of its last two blocks, 120 tweets to learn from and 250 others
# to be judged by. The few training tweets are seen seven times each, which is how plain fine-tuning becomes too sure.

# %%
tweets = bp.load_task(bp.DataConfig(task="tweets", num_train=120, num_test=250), seed=0)
tokenizer = bp.load_tokenizer("minilm")
train, test = (bp.encode(part, tokenizer, max_length=64) for part in (tweets.train, tweets.test))
pad = tokenizer.pad_token_id


def fresh_model(**settings: Any) -> bp.BayesianLoRA:
    """The same adapter and head each time."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    with quiet_libraries():
        return bp.BayesianLoRA.from_pretrained(
            "minilm", bp.SequenceClassification(3), target_modules=r".*layer\.[45]\.attention\.self\.(query|value)",
            num_data=len(train), dtype="bfloat16", **settings,
        )  # fmt: skip


# %% [markdown]
# ## Five that are trained
#
# `bp.fit` has the paper's recipe: AdamW on the negative log-likelihood, and a separate step on the KL. What is particular to
# each of them is what its authors have: BLoB re-weights the KL into pulses and draws by flipout, Bayes by Backprop (BBB)
# does neither and has a softplus in place of the square. MAP has no spread to train. `AutoNormal` is Pyro's: it knows
# nothing of adapters, so plain `SVI` trains it, and it must be told to start where the others do (its own default, a mean
# of 0 and a scale of 0.1, buries a fresh adapter under noise).

# %%
STEPS = 105
common = {"num_steps": STEPS, "batch_size": 8, "lr": 5e-3, "kl_lr": 0.01}
paper = bp.TrainConfig(**common, kl_cycle=STEPS // 3)  # type: ignore[arg-type]
uniform = bp.TrainConfig(**common, recipe="decoupled", kl_schedule="uniform", flipout=False)  # type: ignore[arg-type]
TRAINED: dict[str, tuple[Callable[[bp.BayesianLoRA], AdapterGuide], bp.TrainConfig]] = {
    "BLoB": (bp.BLoBGuide, paper),
    "BBB": (bp.guides.MeanFieldGuide, uniform),
    "Low rank": (bp.guides.LowRankGuide, paper),
    "MAP": (bp.MAPGuide, paper),
}

models, guides, seconds = {}, {}, {}
for name, (build, config) in TRAINED.items():
    models[name] = fresh_model()
    guides[name] = build(models[name])
    start = time.perf_counter()
    bp.fit(models[name], guides[name], bp.train_loader(train, 8, pad, seed=0), config, progress=False)
    seconds[name] = time.perf_counter() - start

# %% [markdown]
# `AutoNormal` has no analytic KL, and the textbook's ELBO weighs it in full: 12,288 random entries against 120 labels. It
# would have pulled the mean to zero within twenty steps, so that here the tweets count a hundred times (`num_data`).

# %%
auto_model = models["AutoNormal"] = fresh_model()
auto_model.num_data = 100 * len(train)


def start_at_adapter(site: dict[str, Any]) -> torch.Tensor:
    """Where PEFT starts the matrix."""
    return auto_model.location(site["name"]).detach().clone()


auto = AutoNormal(auto_model, init_loc_fn=start_at_adapter, init_scale=0.002)
svi = pyro.infer.SVI(auto_model, auto, pyro.optim.Adam({"lr": 5e-3}), pyro.infer.Trace_ELBO())
start = time.perf_counter()
passes = itertools.chain.from_iterable(itertools.repeat(bp.train_loader(train, 8, pad, seed=0)))
auto_losses = [svi.step(batch) for batch in itertools.islice(passes, STEPS)]
seconds["AutoNormal"] = time.perf_counter() - start

# %% [markdown]
# ## One that is fitted afterwards
#
# Laplace-LoRA takes MAP's trained adapter and measures the curvature of the likelihood around it: a forward and two
# backward passes over the training tweets, no step of training. Its width comes from the evidence, with no item held out.
# (Its authors take A and B; here it is A alone, as for the others.)

# %%
start = time.perf_counter()
laplace = bp.guides.LaplaceGuide(models["MAP"])
laplace.fit(bp.predict_loader(train, 16, pad))
seconds["Laplace"] = seconds["MAP"] + time.perf_counter() - start

# %% [markdown]
# ## How wide are they?
#
# The standard deviation of every entry of A, on a logarithmic axis. The prior is at 0.2; BLoB, BBB and the low-rank Gaussian
# began near 0.002. MAP has none.

# %%
spreads = {name: torch.cat([guides[name].scale(site).flatten() for site in models[name].sites]) for name in TRAINED}
with torch.no_grad():
    spreads["AutoNormal"] = torch.cat([auto.quantiles([0.16, 0.84])[site].diff(dim=0).flatten() for site in auto_model.sites]) / 2
spreads["Laplace"] = torch.cat([laplace.scale(site).flatten() for site in models["MAP"].sites])
