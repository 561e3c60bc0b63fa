"""Draw the model's graph: every random A, the labels it explains, and the plate of the items.

    python examples/render_model.py docs/figures/render_model.svg

It takes Graphviz, both the program `dot` (apt install graphviz) and `pip install graphviz`. To fit a page, the A
matrices of SmolLM2-135M's last block alone are random here; elsewhere there are as many circles as adapted layers.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pyro

import blob_pyro as bp


def model_and_batch(id_or_path: str) -> tuple[bp.BayesianLoRA, bp.Batch]:
    """A model with random A in its last block alone, and two items."""
    tokenizer = bp.load_tokenizer(id_or_path)
    likelihood = bp.MultipleChoice(bp.label_token_ids(tokenizer, (" bad", " good")))
    model = bp.BayesianLoRA.from_pretrained(id_or_path, likelihood, num_data=120, bayesian_layers=[-1])
    examples = [bp.Example("Review: what a day\nThis is", 1, "1"), bp.Example("Review: never again\nThis is", 0, "2")]
    items = bp.encode(examples, tokenizer, max_length=32)
    return model, next(iter(bp.predict_loader(items, 2, tokenizer.pad_token_id)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the picture; its ending (.svg, .png, .pdf) says what it is")
    parser.add_argument("--model", default="smollm2", help="hub id, folder or alias")
    options = parser.parse_args()
    model, batch = model_and_batch(options.model)
    graph = pyro.render_model(model, model_args=(batch,))
    graph.body = [broken(line) for line in graph.body]
    graph.graph_attr["bgcolor"] = "white"
    graph.render(outfile=options.path, cleanup=True)
    print(options.path)


def broken(line: str) -> str:
    """A line of Graphviz's language with the long name in its label broken in three, and a gray to read black on."""
    line = line.replace("fillcolor=gray", "fillcolor=lightgray")
    found = re.search(r'label="([^"]*)\.(layers\.\d+\.\w+)\.([^"]*)"', line)
    return line if found is None else line.replace(found[0], rf'label="{found[1]}.\n{found[2]}.\n{found[3]}"')


if __name__ == "__main__":
    main()
