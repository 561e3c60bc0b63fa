"""The command line: `blob-pyro fit | compare | reproduce | evaluate | predict | acquire | generate | report | ...`.

Every mistake of the user's ends in one line on standard error and exit code 2, never in a traceback.
"""

from blob_pyro.cli.dispatch import COMMANDS, main

__all__ = ["COMMANDS", "main"]
