"""`blob-pyro bench`: a training step and a prediction of this library against other ways to make them."""

from blob_pyro.experiments.bench.measure import bench
from blob_pyro.experiments.bench.memory import Memory
from blob_pyro.experiments.bench.results import BenchResult, Growth, Measurement
from blob_pyro.experiments.bench.settings import CONTENDERS, LLAMA_7B, PARTS, BenchSettings, Case
from blob_pyro.experiments.bench.tables import measurement_text, summary_text

__all__ = [
    "CONTENDERS",
    "LLAMA_7B",
    "PARTS",
    "BenchResult",
    "BenchSettings",
    "Case",
    "Growth",
    "Measurement",
    "Memory",
    "bench",
    "measurement_text",
    "summary_text",
]
