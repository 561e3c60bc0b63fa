"""From raw items to examples: the built-in tasks, files of one's own, splits."""
