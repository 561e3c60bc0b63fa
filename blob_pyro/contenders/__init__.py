"""What `blob_pyro.bench` measures: ways to make the same training step or prediction, and how they are measured."""
