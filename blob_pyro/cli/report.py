"""`blob-pyro report`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, command_parser
from blob_pyro.report.page import write_report
from blob_pyro.system.printing import tell_aside, tell_line


def _report_parser() -> ArgumentParser:
    parser = command_parser(
        "report",
        "blob-pyro report RUN [RUN ...] [--output FILE] [--num_items N]",
        """
        Write one HTML file about runs, side by side or alone: what was run, scores with
        standard errors, pictures, the most confident mistakes and the least certain
        items with their text, and warnings. The file needs no network; no model is
        loaded.

        example: blob-pyro report runs/mle runs/blob --output report.html
        """,
    )
    parser.add_argument("runs", type=str, nargs="*", metavar="RUN", help="run directories")
    parser.add_argument("--output", "--out", type=str, default="report.html", help="a new file, or a former report")
    parser.add_argument("--num_items", type=int, default=10, help="mistakes, and uncertain items, shown of each run")
    return parser


def _report(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    tell_line(f"wrote {write_report(parsed.runs, parsed.output, num_items=parsed.num_items, say=tell_aside)}")


COMMAND = Command("write one HTML file about runs", _report_parser, _report)
