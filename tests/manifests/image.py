"""Look through the Dockerfile, or run its install steps, without Docker.

python -m tests.manifests.image check          what a linter does not know of this project's rules
python -m tests.manifests.image replay cpu     the steps of `build-cpu` in a clean folder, with what Docker would see
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FINAL = ("cpu", "gpu")
_COMPILERS = {"gcc", "g++", "clang", "build-essential", "make", "cmake", "ninja-build", "nvcc"}


@dataclass(slots=True)
class Stage:
    """One stage of a Dockerfile."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and the rest of its line."""


def stages(text: str) -> dict[str, Stage]:
    """Read a Dockerfile: its stages by name, in their order. Arguments before the first FROM are put in."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "ARG" and not found:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            found[name] = Stage(name, base)
        elif instruction:
            list(found.values())[-1].steps.append((instruction, rest.strip()))
    return found


def lineage(found: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """All steps of a stage, those of the stages it is built on first."""
    stage = found[name]
    return [*(lineage(found, stage.base) if stage.base in found else ()), *stage.steps]


def problems(text: str, context: list[str]) -> Iterator[str]:
    """Say what is wrong with a Dockerfile; `context` are the files that Docker would see, by their paths."""
    found = stages(text)
    for stage in found.values():
        if stage.base not in found and stage.base != "scratch" and not re.search(r"@sha256:[0-9a-f]{64}$", stage.base):
            yield f"{stage.name}: {stage.base} is not given by its digest"
        for instruction, rest in stage.steps:
            if instruction == "COPY" and "--from=" not in rest:
                for source in shlex.split(rest)[:-1]:
                    if source != "." and not any(one.startswith(source) for one in context):
                        yield f"{stage.name}: COPY {source}: there is no such file, or .dockerignore leaves it out"
    for name in _FINAL:
        if name not in found:
            yield f"there is no stage {name}"
            continue
        steps = lineage(found, name)
        users = [rest for instruction, rest in steps if instruction == "USER"]
        if not users or not users[-1].split(":")[0].isdigit() or users[-1].startswith("0"):
            yield f"{name}: ends without a USER by number, which is what Kubernetes' runAsNonRoot can check"
        if not any(instruction == "HEALTHCHECK" for instruction, _ in steps):
            yield f"{name}: has no HEALTHCHECK"
        words = {word for instruction, rest in steps if instruction == "RUN" for word in rest.split()}
        left = _COMPILERS & words
        if name == "gpu" and "g++" not in left:
            yield f"{name}: has no g++, with which vLLM's libraries compile for the card that they find"
        elif name != "gpu" and left:
            yield f"{name}: has a compiler ({', '.join(sorted(left))})"
        if not any("/etc/profile.d/" in rest for _, rest in steps):
            yield f"{name}: a login shell loses the environment from its PATH (/etc/profile.d)"
        if "wget" not in words:
            yield f"{name}: KubeRay's probes need wget"


def context(root: Path = ROOT) -> list[str]:
    """Files that Docker would see, by their paths; `.dockerignore` in the subset of its language that ours uses."""
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    listed = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, text=True
    )
    return [path for path in listed.splitlines() if (root / path).is_file() and not _ignored(path, patterns)]


def _ignored(path: str, patterns: list[str]) -> bool:
    parts = path.split("/")
    prefixes = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        names = parts if bare.startswith("**/") else prefixes
        if any(fnmatch.fnmatchcase(name, bare.removeprefix("**/")) for name in names):
            ignored = not pattern.startswith("!")
    return ignored


def replay(flavour: str) -> int:
    """Run a flavour's install steps in a clean folder, and what it is then for; the first failure's exit status."""
    found = stages((ROOT / "Dockerfile").read_text())
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        application = Path(folder) / "app"
        application.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHON": "python3", "PIP_NO_CACHE_DIR": "1"}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        # The registry that this machine is set up with; in the image it is pip's own.
        settings = subprocess.run(
            [sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True, check=False
        ).stdout
        files = [line.split(",")[0].strip() for line in settings.splitlines() if line.endswith("exists: True")]
        if files:
            environment["PIP_CONFIG_FILE"] = files[-1]
        for instruction, rest in lineage(found, f"build-{flavour}"):
            if instruction == "COPY":
                *sources, _ = shlex.split(rest)
                for path in context():
                    if any(source == "." or path.startswith(source) for source in sources):
                        (application / path).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / path, application / path)
            elif instruction == "RUN" and "apt-get" not in rest:
                print(f"RUN {rest}", flush=True)
                if status := _run(rest, application, environment):
                    return status
        serve = "PATH=.venv/bin:$PATH && reranker --version && reranker config check serve_config.yaml"
        return _run(serve, application, environment)


def _run(command: str, folder: Path, environment: dict[str, str]) -> int:
    return subprocess.run(["/bin/sh", "-c", command], cwd=folder, env=environment, check=False).returncode


def main() -> int:
    """Check or replay; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "replay"])
    parser.add_argument("flavour", nargs="?", choices=_FINAL, default="cpu")
    parsed = parser.parse_args()
    if parsed.what == "replay":
        return replay(parsed.flavour)
    wrong = list(problems((ROOT / "Dockerfile").read_text(), context()))
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
