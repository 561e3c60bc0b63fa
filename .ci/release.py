"""Whether the wheel in dist/ may be published from here: python .ci/release.py TAG ADDRESS (of the repository)."""

import sys
from importlib.metadata import distributions
from pathlib import Path


def refusal(wheel: Path, tag: str, address: str) -> str | None:
    """Why not, in one line."""
    (built,) = distributions(path=[str(wheel)])
    urls = dict(entry.split(", ", 1) for entry in built.metadata.get_all("Project-URL", []))
    if tag != f"v{built.version}":
        return f"expected the tag v{built.version}, the version in blob_pyro/__init__.py; got {tag}; change one of them"
    if urls["Repository"].lower() != address.lower():
        return (
            f"expected the address of this repository, {address}, in [project.urls] of pyproject.toml; "
            f"got {urls['Repository']}; write it there"
        )
    return None


if __name__ == "__main__":
    (wheel,) = Path("dist").glob("*.whl")
    sys.exit(refusal(wheel, *sys.argv[1:]))
