"""serve_config.yaml is checked strictly, because Ray takes unknown keys without a word."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.check_serve_config import problems

CONFIG: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())


def test_our_configuration_has_no_problem() -> None:
    assert list(problems(CONFIG)) == []


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (["http_options"], "hots"),
        (["applications", 0], "routeprefix"),
        (["applications", 0, "args", "model"], "max_pair_token"),
        (["applications", 0, "deployments", 1], "max_ongoing_request"),
        (["applications", 0, "deployments", 1, "autoscaling_config"], "min_replica"),
    ],
)
def test_misspelt_key_is_named(path: list[str | int], key: str) -> None:
    config: Any = copy.deepcopy(CONFIG)
    part = config
    for step in path:
        part = part[step]
    part[key] = 5
    assert any(key in problem for problem in problems(config))
