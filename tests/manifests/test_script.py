"""`tools/manifests.sh` builds what can be applied, or says what is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests.conftest import ROOT, built
from tests.manifests.validation import problems

VALUES = """\
IMAGE_CPU=registry.example.com/reranker@sha256:aaaa
IMAGE_GPU=registry.example.com/reranker@sha256:bbbb
HOST=rerank.example.com
GATEWAY_CLASS=nginx
REDIS_ADDRESS=rediss://redis.example.com:6379
REDIS_CIDR=10.1.2.0/24
STORAGE_CLASS=shared
REVISION=0123456789abcdef0123456789abcdef01234567
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the script needs of this repository."""
    for name in ("k8s", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".venv", "deployments", "reranker"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def _run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([project / "tools" / "manifests.sh", *arguments], check=False, capture_output=True, text=True)


def test_values_that_nobody_has_set_are_refused_by_name(project: Path) -> None:
    (project / "k8s" / "values" / "values.env").write_text(
        VALUES.replace("rerank.example.com", "CHANGE-ME").replace("10.1.2.0/24", "")
    )
    done = _run(project, "prod")
    assert done.returncode == 1
    assert done.stderr == "not set in k8s/values/values.env: HOST REDIS_CIDR\n"
    assert not done.stdout


def test_values_reach_every_place(project: Path) -> None:
    (project / "k8s" / "values" / "values.env").write_text(VALUES)
    texts = ""
    for arguments in (("prod",), ("prod", "weights")):
        done = _run(project, *arguments)
        assert done.returncode == 0, done.stderr
        assert "CHANGE-ME" not in done.stdout
        assert [found for one in yaml.safe_load_all(done.stdout) for found in problems(one)] == []
        texts += done.stdout
    for line in VALUES.splitlines():
        assert f": {line.partition('=')[2]}\n" in texts


def test_several_models_have_a_commit_each(project: Path) -> None:
    commits = f"{'a' * 40} {'b' * 40}"
    text = VALUES.replace("0123456789abcdef0123456789abcdef01234567", commits)
    (project / "k8s" / "values" / "values.env").write_text(text)
    done = _run(project, "prod-two-models", "weights")
    assert done.returncode == 0, done.stderr
    assert f"value: {commits}\n" in done.stdout
    assert "CHANGE-ME" not in _run(project, "prod-two-models").stdout


@pytest.mark.parametrize("revision", ["main", "0123456", "", f"{'a' * 40} main"])
def test_weights_of_no_commit_are_refused(project: Path, revision: str) -> None:
    """A branch is another model tomorrow."""
    text = VALUES.replace("0123456789abcdef0123456789abcdef01234567", revision)
    (project / "k8s" / "values" / "values.env").write_text(text)
    done = _run(project, "prod", "weights")
    assert done.returncode == 1
    assert "REVISION" in done.stderr
    assert not done.stdout


def test_values_in_the_repository_are_not_set() -> None:
    """Somebody's own must not be taken for everybody's."""
    lines = (ROOT / "k8s" / "values" / "values.env").read_text().splitlines()
    values = [line for line in lines if line and not line.startswith("#")]
    assert values
    assert all(line.endswith("=CHANGE-ME") for line in values)
    assert "CHANGE-ME" in built("prod")


def test_overlay_that_does_not_exist_is_refused(project: Path) -> None:
    done = _run(project, "staging")
    assert done.returncode == 1
    assert "dev prod prod-4b prod-8b-tp2 prod-two-models" in done.stderr
