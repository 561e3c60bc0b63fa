"""A run for others: one PEFT adapter, several drawn ones, or a merged model; each with a card and a manifest."""

from blob_pyro.runs.exports.export import export
from blob_pyro.runs.exports.kinds import Kind
from blob_pyro.runs.exports.manifest import MANIFEST, check_manifest
from blob_pyro.runs.exports.push import push_to_hub

__all__ = ["MANIFEST", "Kind", "check_manifest", "export", "push_to_hub"]
