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
        {"model": {"instruction": "@unknown"}},
        {"engine": {"device": "cpu", "tensor_parallel_size": 2}},
        {"engine": {"simulated": {"tokens_per_s": 0}}},
        {"engine": {"simulated": {"failure_rate": 1.5}}},
        {"engine": {"scheduling": "random"}},
        {"planning": {"slack": -0.1}},
        {"priorities": {"urgent": {"weight": 2}}},
        {"priorities": {"bulk": {"weight": 0}}},  # it would wait for ever
        {"priorities": {"bulk": {"queue_share": 1.5}}},
        {"admission": {"max_queue_s": 0}},
        {"scatter": {"max_attempts": 0}},
        {"scatter": {"hedge_after": 1}},  # half of all shards would be sent twice
        {"limits": {"timeout_s": -1}},
        {"search": {"indexes": {"a": {}}}},  # neither path nor milvus
        {"search": {"indexes": {"a b": {"path": "/a"}}}},
        {"search": {"indexes": {"a": {"path": "/a", "candidate": 5}}}},
        {"search": {"indexes": {"a": {"path": "/a", "candidates": 5_000}}}},  # above search.max_candidates
        {"search": {"indexes": {"a": {"path": "/a", "first_stage": "dense"}}}},  # without embedding.model
        {"search": {"indexes": {"a": {"path": "/a", "first_stage": "milvus"}}}},
        {"search": {"indexes": {"a": {"path": "/a", "instruction": "@unknown"}}}},
        {"search": {"indexes": {"a": {"milvus": {"uri": "http://m", "collection": "c", "vector_field": None}}}}},
    ],
)
def test_wrong_key_or_value_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RerankerConfig.model_validate(args)


def test_configuration_does_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RerankerConfig().model.name = "other"  # type: ignore[misc]


def test_class_of_requests_keeps_what_is_not_said_of_it() -> None:
    """Said of bulk is only its weight: its share of the queue must not become the general default of a class."""
    bulk = RerankerConfig.model_validate({"priorities": {"bulk": {"weight": 2}}}).priorities.of("bulk")
    assert (bulk.weight, bulk.queue_share) == (2, 0.5)


@pytest.mark.parametrize(("asked_s", "given_s"), [(None, 120), (3, 3), (500, 120)])
def test_request_may_shorten_its_time_but_not_extend_it(asked_s: float | None, given_s: float) -> None:
    assert RerankerConfig().limits.bounded_s(asked_s) == given_s


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            {"admission": {"max_queue_s": 300}},
            "admission.max_queue_s: lists may queue 300 s, and are given up after 120",
        ),
        ({"admission": {"max_tokens_in_flight": 10}}, "admission.max_tokens_in_flight: not even one document"),
        ({"limits": {"max_json_values": 10}}, "max_documents: 10000 documents have more than 10 values"),
        ({"long_documents": {"window_tokens": 200}}, "overlap_tokens: .* is not less than half a window"),
        ({"long_documents": {"window_tokens": 9000}}, "long_documents.window_tokens: .* does not fit a prompt"),
    ],
)
def test_settings_that_contradict_each_other_stop_a_start(args: dict[str, object], said: str) -> None:
    """Found under load otherwise: each is legal alone."""
    with pytest.raises(ValidationError, match=said):
        RerankerConfig.model_validate(args)
