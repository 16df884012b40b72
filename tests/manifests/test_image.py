"""The Dockerfile keeps this project's rules; nothing here needs Docker."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.manifests.conftest import ROOT
from tests.manifests.image import context, problems

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
        (r"install -y --no-install-recommends wget", "install -y wget gcc", r"cpu: has a compiler \(gcc\)"),
        (r"no-install-recommends g\+\+", "no-install-recommends gcc", r"gpu: has no g\+\+"),
        (r"/etc/profile.d/reranker.sh", "/etc/motd", "a login shell loses"),
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
