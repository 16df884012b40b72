"""Check the lock files, and the environment that they were installed into. Standard library only.

python -m tools.locks       the files' text; and that no two installed packages own one file with different contents
"""

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(text: str) -> dict[str, tuple[str, str]]:
    """Operator and version by the package's name."""
    return {name: (how, version) for name, how, version in re.findall(r"^([\w.-]+)(={2,3})(\S+)", text, re.MULTILINE)}


def problems(gpu: str) -> Iterator[str]:
    """Say what is wrong with the GPU lock; each has been seen. tools/lock.sh constrains it so that nothing is."""
    pinned = pins(gpu)
    how, version = pinned["torch"]
    if how != "===" or "+" in version:
        yield f"torch{how}{version}: a CPU build would do as well; pin it with === to the registry's own, CUDA's"
    python, bindings = (pinned[name][1] for name in ("cuda-python", "cuda-bindings"))
    if python.split(".")[0] != bindings.split(".")[0]:
        yield f"cuda-python {python} has bindings of its own, in the same files as cuda-bindings {bindings}"
    if int(pinned["setuptools"][1].split(".")[0]) >= 81:
        yield f"setuptools {pinned['setuptools'][1]}: vLLM on Python 3.12 wants one below 81"


def clashes() -> Iterator[str]:
    """Files of this environment that two packages own with different contents: the one installed last has won."""
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for package in distributions():
        name = package.name  # once: it is read from a file
        for file, digest, _ in csv.reader((package.read_text("RECORD") or "").splitlines()):
            if digest and ".dist-info/" not in file and not file.startswith("../"):
                owners[file][name] = digest
    for file, hashes in sorted(owners.items()):
        if len(set(hashes.values())) > 1:
            yield f"{file} belongs to {' and '.join(sorted(hashes))}, with different contents"


def main() -> int:
    """Print what is wrong; exit status 1 when something is."""
    found = [*problems((ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8")), *clashes()]
    print("\n".join(found) or "the lock files are sound, and each file of this environment has one content")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
