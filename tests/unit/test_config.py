"""A wrong value must stop the start, not be taken for a default."""

from typing import Any

import pytest
from pydantic import ValidationError

from reranker.config import RerankerConfig


def test_empty_configuration_is_complete() -> None:
    """`serve_config.yaml` runs anywhere: nothing has to be set."""
    config = RerankerConfig()
    assert config.model.name == "demo"
    assert config.model.max_pair_tokens <= config.planning.max_shard_tokens


@pytest.mark.parametrize(
    "args",
    [
        {"modell": {}},
        {"model": {"nam": "demo"}},
        {"model": {"name": ""}},
        {"model": {"dtype": "float8"}},
        {"engine": {"device": "tpu"}},
        {"engine": {"gpu_memory_utilization": 1.5}},
        {"engine": {"max_batch_tokens": 0}},
        {"planning": {"min_shard_tokens": 10, "max_shard_tokens": 5}},
        {"planning": {"max_shard_tokens": 4_096}},  # below model.max_pair_tokens
        {"limits": {"timeout_s": -1}},
    ],
)
def test_wrong_key_or_value_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RerankerConfig.model_validate(args)


def test_configuration_does_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RerankerConfig().model.name = "other"  # type: ignore[misc]
