"""Parquet is read in the thread that asks: a process that ends soon after Arrow's have started may be aborted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

READ = """
import os, sys
import pyarrow.parquet
from blob_pyro.data.rows.files import read_rows

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
rows = read_rows(sys.argv[1])
assert len(rows) == 12 and rows[1].fields["label"] == "positive", rows
print(threads() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_is_left_by_reading(tmp_path):
    pq.write_table(pa.Table.from_pylist(tiny.items(12)), tmp_path / "items.parquet")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    words = [sys.executable, "-c", READ, str(tmp_path / "items.parquet")]
    assert subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout == "0\n"
