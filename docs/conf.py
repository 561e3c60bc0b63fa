"""How Sphinx builds this documentation: `make docs`, warnings being errors."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.util.nodes import make_refnode

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "blob_pyro"
author = "the authors of blob_pyro"
project_copyright = "the authors of blob_pyro; Apache-2.0"
release = version = installed("blob_pyro")

extensions = [
    "myst_nb",                     # Markdown pages, notebooks
    "sphinx.ext.autodoc",          # the API reference from the docstrings
    "sphinx.ext.napoleon",         # which are in Google's style
    "sphinx.ext.mathjax",          # mathematics
    "sphinx-mathjax-offline",      # with MathJax's files beside the pages: nothing is fetched when one is read
    "sphinx_copybutton",           # a button on each block of code
]  # fmt: skip
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
nitpicky = True

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# Notebooks are Python files in examples/notebooks (py:percent), run once and kept until they change. NAME.py is
# copied to NAME.nb.py, so that other Python files, which pages link to, are files and not pages.
NOTEBOOK = ".nb.py"
nb_custom_formats = {NOTEBOOK: ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = os.environ.get("BLOB_PYRO_NOTEBOOKS", "cache")  # "off" shows them without their output
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm, where Jupyter has no widgets

# Docstrings
default_role = "py:obj"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
python_maximum_signature_line_length = 120
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
toc_object_entries = False
# No inventories of other projects are fetched; single backticks are code as often as they are names; and what the
# signatures name of others, or of ours without being public, has no entry to link to.
OTHERS = "Axes|Distribution|Figure|Path|PeftModel|PreTrainedTokenizerBase|Tensor"
INTERNAL = (
    "Answered|BaseSource|ByCount|Curve|CurvatureSum|Decisions|DiagonalSum|Draw|KroneckerSum|Line"
    "|Ranks|RunLike|Runs|SavedAnswers|SavedTexts|Scores|Spread|System|Tell|Trained|TrainingState|hold"
)
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"(torch|pyro|transformers|peft|datasets|matplotlib|tqdm|collections|typing|pathlib|abc)\..*"),
    ("py:.*", rf"({OTHERS})"),
    ("py:class", r"tuple\[\w+"),  # of a signature with a default_factory, which Sphinx splits at its commas
    ("py:.*", rf"(blob_pyro\.[\w.]+\.)?({INTERNAL}|_\w+)"),
]

# Pages
html_theme = "furo"
html_title = "blob_pyro"
html_static_path = ["_static"]
html_css_files = ["blob_pyro.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb4ee", "color-brand-content": "#7fb4ee"},
    "navigation_with_keys": True,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def copy_notebooks() -> None:
    """Put the notebooks of examples/notebooks, and their index.md, where Sphinx reads them."""
    source, target = ROOT / "examples" / "notebooks", DOCS / "notebooks"
    target.mkdir(exist_ok=True)
    theirs = {file.stem + NOTEBOOK: file for file in source.glob("*.py")}
    theirs |= {file.name: file for file in source.glob("index.md")}
    for file in target.glob("*.*"):
        if file.name not in theirs:
            file.unlink()
    for name, file in theirs.items():
        shutil.copy2(file, target / name)
    if "index.md" not in theirs:
        names = [name.removesuffix(NOTEBOOK) for name in sorted(theirs)]
        (target / "index.md").write_text(notebook_index(names), encoding="utf-8")


def notebook_index(names: list[str]) -> str:
    """The page of notebooks where nobody has written one."""
    listed = ["```{toctree}", ":maxdepth: 1", "", *names, "```"] if names else ["There are none yet."]
    return "\n".join(["# Notebooks", "", *listed, ""])


COLON = "\ue000"  # stands for the colon of an attribute's summary while napoleon would take it for a type's


def read_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring that is written to be read in a terminal.

    What is set off by indentation, such as an equation, is shown as it stands and not as a quotation; a bar is a bar;
    the summary of an attribute may hold a colon.
    """
    if what in ("attribute", "property", "data") and lines:
        lines[0] = lines[0].replace(":", COLON)
    shown: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        before = next((former for former in reversed(shown) if former.strip()), "")
        if indented and not inside and shown and not shown[-1].strip() and not before.startswith((" ", "..")):
            shown += ["::", ""]
            inside = True
        inside = inside and (indented or not line.strip())
        shown.append(line if inside or line.lstrip().startswith((">>>", "...")) else escape_bars(line))
    lines[:] = shown


def escape_bars(line: str) -> str:
    """The line with its bars escaped, but for those in backticks."""
    parts = re.split(r"(``.*?``|`.*?`)", line)
    return "".join(part if number % 2 else part.replace("|", r"\|") for number, part in enumerate(parts))


def put_colons_back(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def find_by_last_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Docstrings name things as code does, without the module: `BLoBSVI` is blob_pyro.BLoBSVI here."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].split("(")[0]
    last = target.removeprefix("blob_pyro.").split(".")[-1] if target.startswith("blob_pyro.") else target
    domain = env.get_domain("py")
    found = sorted(
        (name for name in domain.objects if name.endswith(f".{last}")), key=lambda name: (name.count("."), name)
    )
    if not found:
        return None
    entry = domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def spread_notebooks(app: Any, env: Any, names: list[str]) -> None:
    """Put the notebooks between the other pages, of which each process reads some that follow one another.

    A notebook takes most of a minute, any other page hardly any time; read in a row, they would be one process's.
    """
    slow = [name for name in names if name.startswith("notebooks/") and name != "notebooks/index"]
    names[:] = [name for name in names if name not in slow]
    for index, name in enumerate(slow):
        names.insert(index * (1 + len(names) // len(slow)), name)


def setup(app: Any) -> dict[str, bool]:
    copy_notebooks()
    # it copies MathJax's files and says nothing of parallel reading, in which the notebooks run side by side
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
    app.connect("env-before-read-docs", spread_notebooks)
    app.connect("autodoc-process-docstring", read_docstring, priority=100)
    app.connect("autodoc-process-docstring", put_colons_back, priority=900)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
