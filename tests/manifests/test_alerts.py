"""Alerts: each fires when it should, and not when all is well; each has a place in the runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.conftest import ROOT, objects
from tests.programs import program

CASES = Path(__file__).with_name("alerts_test.yaml")


def _rules() -> dict[str, Any]:
    """What the Prometheus operator gives to Prometheus (Any: YAML)."""
    [found] = [one for one in objects("prod") if one["kind"] == "PrometheusRule"]
    rules: dict[str, Any] = found["spec"]
    return rules


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in _rules()["groups"] for rule in group["rules"]]


def _promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(_rules()))
    return subprocess.run([program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    done = _promtool(tmp_path, "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    cases = yaml.safe_load(CASES.read_text())
    asked = [
        (one["alertname"], bool(one.get("exp_alerts"))) for case in cases["tests"] for one in case["alert_rule_test"]
    ]
    for alert in _alerts():
        assert (alert["alert"], True) in asked
        assert (alert["alert"], False) in asked
    (tmp_path / "cases.yaml").write_text(CASES.read_text())
    done = _promtool(tmp_path, "test", "rules", "cases.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", _alerts(), ids=lambda one: str(one["alert"]))
def test_every_alert_leads_to_its_section_of_the_runbook(alert: dict[str, Any]) -> None:
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    [_, section] = re.split(rf"^## {alert['alert']}$", (ROOT / file).read_text(), flags=re.MULTILINE)
    section = section.partition("\n## ")[0]
    assert all(f"**{part}**" in section for part in ("Means", "Look at", "Do"))
