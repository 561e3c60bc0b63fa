"""`python -m blob_pyro` is `blob-pyro`."""

import sys

from blob_pyro.cli import main

if __name__ == "__main__":
    sys.exit(main())
