"""Rows as the bytes of a file in each format, written without the library."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def file_bytes(rows: Sequence[Mapping[str, Any]], ending: str) -> bytes:
    """A file with this ending; lists are JSON in a cell of CSV or TSV."""
    ending = ending.lstrip(".")
    if ending.startswith("json"):
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    elif ending.startswith(("csv", "tsv")):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]), dialect="excel" if ending.startswith("csv") else "excel-tab")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
        data = out.getvalue().encode()
    else:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        data = sink.getvalue()
    return gzip.compress(data) if ending.endswith(".gz") else data
