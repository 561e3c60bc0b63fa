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
# # What the prior does
#
# The prior of a Bayesian LoRA is stated on a small matrix, A ~ Normal(0, sigma_p²), and acts on a large one, W = W0 +
# s B A. You see what its draws look like there, why its covariance is degenerate and that this does no harm, and what
# sigma_p does to answers.

# %%
import matplotlib.pyplot as plt
import pyro
import torch
from torch.distributions import kl_divergence

import blob_pyro as bp
from blob_pyro.data.examples import Batch
from blob_pyro.distributions import FullWeightNormal
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.report import markdown_table
from blob_pyro.system.terminal import quiet_libraries

tweets = bp.load_task(bp.DataConfig(task="tweets", num_train=240, num_test=60), seed=0)
tokenizer = bp.load_tokenizer("minilm")
train, test = (bp.encode(part, tokenizer, max_length=64) for part in (tweets.train, tweets.test))
pad = tokenizer.pad_token_id


def fresh_model(prior_scale: float) -> bp.BayesianLoRA:
    """MiniLM with adapters on query and value of the last two blocks; the same start each time."""
    pyro.set_rng_seed(0)
    with quiet_libraries():
        return bp.BayesianLoRA.from_pretrained(
            "minilm", bp.SequenceClassification(3), target_modules=r".*layer\.[45]\..*\.(query|value)",
            num_data=len(train), prior_scale=prior_scale,
        )  # fmt: skip


# %% [markdown]
# ## Before training the prior says nothing
#
# PEFT starts B at zero. Whatever A is drawn, B A is zero, and every draw is the base network: a prior over A is a
# prior over *functions* only once B is there. Any Pyro guide can be asked for answers, so that one which draws from
# the prior gives the prior predictive.


# %%
def answers_under_prior(model: bp.BayesianLoRA) -> Predictions:
    """Six draws of all A from the model's prior."""

    def prior_guide(batch: Batch | None = None) -> None:
        for site in model.sites:
            pyro.sample(site, model.prior(site))

    return bp.PosteriorPredictive(model, prior_guide, num_samples=6)(bp.predict_loader(test, 64, pad))


untrained = fresh_model(0.2)
draws = answers_under_prior(untrained).draws
print("largest difference between two draws' probabilities:", float((draws - draws[0]).abs().max()))

# %% [markdown]
# ## One training for each prior
#
# BLoB on 240 tweets, in forty steps, under three values of sigma_p, and nothing else set: the library then widens the
# posterior to a share of the prior, here a quarter.

# %%
SCALES = (0.05, 0.2, 0.8)
models, guides = {}, {}
for prior_scale in SCALES:
    models[prior_scale] = model = fresh_model(prior_scale)
    guides[prior_scale] = guide = bp.BLoBGuide(model)
    config = bp.TrainConfig(num_steps=40, batch_size=8, lr=5e-3)
    bp.fit(model, guide, bp.train_loader(train, 8, pad, seed=0), config, progress=False)

# %% [markdown]
# ## A draw of A, and the draw of W that it is
#
# Now B is there. Above, a draw of A from the prior at sigma_p = 0.2 (its first 96 columns of 384): white noise, eight
# rows. Below, what it adds to the weight of the last value layer, s B A (a corner of 96 x 96). It is no white noise:
# every column is a mixture of the same eight columns of B, and rows repeat one another.

# %%
site = "base_model.model.bert.encoder.layer.5.attention.self.value.lora_A"
model, guide = models[0.2], guides[0.2]
posterior = guide.full_weight_posterior(site)  # W0, s B, and the law of A: theorem 3.1
B = posterior.B.detach()
prior = FullWeightNormal(posterior.base_weight, B, torch.zeros_like(posterior.loc), torch.full_like(posterior.loc, 0.2))

torch.manual_seed(0)
with torch.no_grad():
    A_prior, A_posterior = prior.coefficients.sample(), posterior.coefficients.sample()
figure, axes = plt.subplots(2, 2, figsize=(9, 5), height_ratios=(1, 12), layout="compressed")
for column, (name, A) in enumerate({"prior": A_prior, "posterior": A_posterior}.items()):
    for ax, matrix in zip(axes[:, column], (A[:, :96], (B @ A)[:96, :96]), strict=True):
        limit = float(matrix.abs().max())
        image = ax.imshow(matrix.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=axes[1, column], shrink=0.8)
    axes[0, column].set_title(f"{name}: a draw of A, and of s B A")

# %% [markdown]
# ## A degenerate covariance
#
# Theorem 3.1 of BLoB: columns of W are independent, and column j has the covariance (s B) diag(Omega_j²) (s B)^T. It
# is a matrix of 384 x 384 and of rank 8: along 376 directions W cannot move at all. Left, its eigenvalues; right, two
# entries of one column, and two of different columns, in 400 draws.

# %%
covariance = B.double() @ torch.diag(prior.scale[:, 0].double() ** 2) @ B.double().T
eigenvalues = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=1e-18)
with torch.no_grad():
    weights = prior.rsample((400,)) - prior.base_weight
strength, rows = B.square().sum(1).sort(descending=True)
first = int(rows[0])
second = int((torch.nn.functional.cosine_similarity(B, B[first][None]).abs() - torch.eye(len(B))[first]).argmax())

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].semilogy(range(1, 25), eigenvalues[:24].numpy(), "o", color="#0072B2")
axes[0].set(xlabel="eigenvalue of a column's covariance", ylabel="variance, largest first")
for other, colour, label in ((0, "#0072B2", "same column"), (1, "#D55E00", "different columns")):
    axes[1].plot(weights[:, first, 0], weights[:, second, other], ".", color=colour, markersize=4, label=label)
axes[1].set(xlabel=f"entry ({first}, 0) of s B A", ylabel=f"entry ({second}, 0) or ({second}, 1)")
legend = axes[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.15), ncols=2)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
print("rank of the covariance:", int(torch.linalg.matrix_rank(covariance)), "of", len(covariance))

# %% [markdown]
# Such a law has no density in the space of W. Yet the KL between two of them is finite when both move in the same
# directions, and then it equals the KL between the two laws of A (theorem 3.2): nothing is lost by doing all the work
# on the small matrix.

# %%
with torch.no_grad():
    on_W = kl_divergence(posterior, prior)
    on_A = kl_divergence(posterior.coefficients, prior.coefficients)
    rotated = FullWeightNormal(
        prior.base_weight, prior.B @ torch.linalg.qr(torch.randn(8, 8)).Q, prior.loc, prior.scale
    )
    on_rotated = kl_divergence(posterior, rotated)  # the same law of W, written with another B
print(f"KL of this layer on W {on_W:,.2f} nats; on A {on_A:,.2f}; with the prior's B rotated {on_rotated:,.2f}")
assert abs(on_W - on_A) < 1e-3 * on_A and abs(on_rotated - on_A) < 1e-3 * on_A

# %% [markdown]
# ## KL against sigma_p
#
# One posterior, all priors. The KL is least where sigma_p² is the mean of Omega² + M², the posterior's own mean square
# (dots). To the left is a prior too narrow for it: the price rises as 1 / sigma_p². To the right is one too wide: the
# price rises only as log sigma_p, but for every entry, data or not. That is what makes a wide prior widen the
# posterior.

# %%
grid = torch.logspace(-2, 1, 200)
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (prior_scale, guide), colour in zip(guides.items(), ("#009E73", "#0072B2", "#D55E00"), strict=True):
    with torch.no_grad():
        loc = torch.cat([guide.loc(name).flatten() for name in models[prior_scale].sites])
        scale = torch.cat([guide.scale(name).flatten() for name in models[prior_scale].sites])
    square = (loc**2 + scale**2).mean()
    kl = len(loc) * (grid.log() - scale.log().mean() + square / (2 * grid**2) - 0.5)
    ax.loglog(grid, kl, color=colour, label=f"trained at sigma_p = {prior_scale}")
    at_least = len(loc) * (square.sqrt().log() - scale.log().mean())
    ax.plot(square.sqrt(), at_least, "o", color=colour)
ax.set(xlabel="sigma_p", ylabel="KL, nats", ylim=(None, 2e5))
ax.spines[["top", "right"]].set_visible(False)
legend = ax.legend(frameon=False)

# %% [markdown]
# ## And the answers
#
# For each sigma_p: the size of M and the spread that came of it; after training, how far draws disagree (mean mutual
# information, nats) and answer (NLL), from the prior and from the posterior; all on 80 other tweets.

# %%
table = []
after_prior, after = {}, {}
for prior_scale, model in models.items():
    after_prior[prior_scale] = answers_under_prior(model)
    after[prior_scale] = bp.PosteriorPredictive(model, guides[prior_scale], 6)(bp.predict_loader(test, 64, pad))
    under_prior, found = bp.evaluate(after_prior[prior_scale]), bp.evaluate(after[prior_scale])
    spread = guides[prior_scale].mean_scale().item()
    size = torch.cat([guides[prior_scale].loc(name).flatten() for name in model.sites]).square().mean().sqrt().item()
    table.append(
        [str(prior_scale), f"{size:.3f}", f"{spread:.3f}",
         f"{under_prior.mutual_information:.4f}", f"{found.mutual_information:.4f}",
         f"{under_prior.nll:.2f}", f"{found.nll:.2f} ± {found.nll_se:.2f}", f"{100 * found.accuracy:.0f}"]
    )  # fmt: skip
headings = ["sigma_p", "rms of M", "sd", "prior draws", "posterior draws", "NLL, prior", "NLL, posterior", "accuracy %"]
print(markdown_table(headings, table))

figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True, layout="constrained")
for ax, prior_scale in zip(axes, SCALES, strict=True):
    for predictions, colour, label in ((after_prior, "#D55E00", "prior draws"), (after, "#0072B2", "posterior draws")):
        confidences = predictions[prior_scale].draws.max(-1).values.flatten()
        ax.hist(confidences.numpy(), bins=15, range=(1 / 3, 1), histtype="step", lw=2, color=colour, label=label)
    ax.set(title=f"sigma_p = {prior_scale}", xlabel="confidence under a draw")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel="draws x tweets")
legend = axes[0].legend(frameon=False)

# %% [markdown]
# What sigma_p did here, in one seed of a small training:
#
# - Before training, nothing: B is zero.
# - Under draws from the *prior*, with the trained B, the wider the prior the more the draws disagree and the worse
#   they answer. B was learnt for an A near M, and a prior draw is far from it.
# - The spread is the same share of each prior, and the wider it is the more the posterior's draws disagree. Sigma_p is
#   the unit in which the width is measured (`train.kl_width`).
# - M is the same for all three. The KL's gradient in M is M / sigma_p², sixteen times as strong at 0.05 as at 0.2: at
#   one rate for all, the narrow prior would erase what was learnt. The library gives the mean a rate of its own, which
#   takes a few percent of it whatever the prior is.
# - The answers differ by no more than the noise.
