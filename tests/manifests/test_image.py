"""The Dockerfile keeps this project's rules; nothing here needs Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.manifests.conftest import ROOT
from tests.manifests.image import context, problems
from tools.prebuild_triton import build

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_our_dockerfile_has_no_problem() -> None:
    assert list(problems(DOCKERFILE, context())) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        (r"@sha256:\w+", "", "not given by its digest"),
        (r"COPY requirements/ ", "COPY requirement/ ", "COPY requirement/: there is no such file"),
        (r"USER 1000:1000", "", "without a USER by number"),
        (r"USER 1000:1000", "USER 0", "without a USER by number"),
        (r"USER 1000:1000", "USER reranker", "without a USER by number"),
        (r"(?m)^HEALTHCHECK.*$", "", "has no HEALTHCHECK"),
        (r"install -y --no-install-recommends wget", "install -y wget gcc", r"has a compiler \(gcc\)"),
        (r"wget libnuma1", "libnuma1", "need wget"),
        (r"FROM final AS gpu", "FROM final AS cuda", "there is no stage gpu"),
    ],
)
def test_broken_rule_is_found(pattern: str, replacement: str, said: str) -> None:
    broken, changed = re.subn(pattern, replacement, DOCKERFILE)
    assert changed
    assert any(re.search(said, one) for one in problems(broken, context()))


def test_image_gets_what_runs_and_nothing_else() -> None:
    """No secrets, no tests, no notes: an image is published."""
    files = context()
    for needed in (
        "reranker/model/demo_model/model.safetensors",
        "deployments/app.py",
        "serve_config.yaml",
        "k8s/drain.sh",
    ):
        assert needed in files
    assert not [path for path in files if path.startswith(("tests/", "docs/", "benchmarks/", "k8s/values", "."))]


def test_linter_has_nothing_to_say() -> None:
    subprocess.run([ROOT / ".venv" / "bin" / "hadolint", "Dockerfile"], cwd=ROOT, check=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
def test_tritons_driver_needs_no_compiler_in_the_image(tmp_path: Path) -> None:
    """What it would compile on a GPU was compiled before, and is found by its content."""
    pytest.importorskip("triton")
    from triton.backends.nvidia import driver

    library = build(tmp_path / "prebuilt")
    source = tmp_path / "main.c"
    source.write_bytes((Path(driver.dirname) / "driver.c").read_bytes())
    target = tmp_path / "cuda_utils.so"
    cc = str(tmp_path / "prebuilt" / "cc")
    arguments = [cc, str(source), "-O3", "-shared", "-o", str(target), "-l:libcuda.so.1"]
    subprocess.run(arguments, check=True)
    assert target.read_bytes() == library.read_bytes()
    assert b"libcuda.so.1" in target.read_bytes()

    source.write_text("int x;")
    refused = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no C compiler in this image" in refused.stderr
