"""From examples to padded batches: token ids, completions, loaders, which items share a forward."""
