"""The page: HTML with everything in it, whose policy forbids the browser to ask for anything else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from blob_pyro.report.page.cautions import Caution
from blob_pyro.report.page.extremes import ShownItem
from blob_pyro.report.page.pictures import Picture
from blob_pyro.report.tables import Cells
from blob_pyro.system.printing import printable

MARK = "<!doctype html>\n<!-- blob-pyro report -->"
"""How a report begins, by which it is known again."""


@dataclass(frozen=True)
class ItemList:
    """Items to look at, under a heading."""

    title: str
    note: str
    items: list[ShownItem]


@dataclass(frozen=True)
class RunPart:
    """What a page says of one run.

    Attributes:
        name: of the run.
        facts: name and value of what was run.
        changed: settings that are not the defaults, name and value.
        configuration: YAML.
        cautions, tables, pictures, lists: what to be wary of, and what there is to see.
        missing: a line for each part that is not there.
    """

    name: str
    facts: list[tuple[str, str]]
    changed: list[tuple[str, str]]
    configuration: str
    cautions: list[Caution]
    tables: list[tuple[str, Cells]]
    pictures: list[Picture]
    lists: list[ItemList]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: of the page.
        written_by: which version wrote it.
        runs: a part for each run.
        cautions: of the comparison; of a single run its part has them.
        table: of the systems; None for a single run.
        pictures: of the systems beside each other.
    """

    title: str
    written_by: str
    runs: list[RunPart]
    cautions: list[Caution] = field(default_factory=list)
    table: Cells | None = None
    pictures: list[Picture] = field(default_factory=list)


def html(page: Page) -> str:
    """The page as text; whatever comes from data or settings is escaped."""
    folder = files("blob_pyro.report.page")
    style = (folder / "report.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"plain": _plain, "coded": _coded}
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    body = template.render(page=page, style=style, policy=_policy(style))
    return f"{MARK}\n{body}\n"


def _policy(style: str) -> str:
    """The content security policy: pictures of the page itself, this one style sheet, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _coded(text: object) -> Markup:
    """As `_plain`, with what stands between backquotes as code."""
    parts = _plain(text).split("`")
    if len(parts) % 2 == 0:  # a backquote of the data's own
        return escape(_plain(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 2 else escape(part) for position, part in enumerate(parts)
    )


def _plain(text: object) -> str:
    """Text without control characters and marks that turn the direction of writing, which are spelt out."""
    return printable(str(text))
