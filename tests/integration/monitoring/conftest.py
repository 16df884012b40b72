"""A service for whoever watches it: two ingresses, two simulated engines that a policy scales, Redis, and API keys."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.conftest import Service, configuration, deployment, free_port, started
from tests.integration.scraping import exporter_of, ray_address
from tests.redis_server import RedisServer

KEY, SCRAPE_KEY = "key-of-the-operator", "key-of-prometheus"
_KEYS = f"""\
operator: {{key: {KEY}}}
few-tokens: {{key: key-of-few, tokens_per_minute: 100}}
prometheus: {{key: {SCRAPE_KEY}, metrics: true}}
"""
_AUTOSCALING = {
    "min_replicas": 2,
    "max_replicas": 2,
    "policy": {"policy_function": "deployments.autoscaling:QueueTime"},
    "metrics_interval_s": 1,
    "look_back_period_s": 5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
}


@dataclass
class Watched:
    """The service, what it remembers scores in, and where Prometheus finds its figures."""

    service: Service
    redis: RedisServer
    metrics_port: int
    """Answers for all processes of the node."""

    @functools.cached_property
    def exporter(self) -> str:
        """Host and port of Ray's exporter."""
        return exporter_of(self.service)

    @property
    def node(self) -> str:
        """Host and port of the node's metrics: what Prometheus scrapes on a cluster."""
        return f"{ray_address()}:{self.metrics_port}"


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """With a Ray of its own: it runs beside `service`, and its exporter reports often.

    Tests may kill replicas, and wait until there are as many again.
    """
    folder, metrics_port = tmp_path_factory.mktemp("watched"), free_port()
    (folder / "keys.yaml").write_text(_KEYS)
    with RedisServer(folder) as redis, pytest.MonkeyPatch.context() as patch:
        args: dict[str, Any] = {
            "engine": {"max_batch_tokens": 1_000},
            "admission": {"max_queue_s": 2},
            "cache": {"enabled": True, "redis": {"url": redis.url}},
            "access": {"keys_file": str(folder / "keys.yaml")},
            "observability": {"metrics_port": metrics_port},
            "shadows": [{"with": "none", "share": 1}],
        }
        config = configuration(args=args, simulated={"tokens_per_s": 20_000}, ingresses=2)
        deployment(config, "EngineReplica")["autoscaling_config"] = _AUTOSCALING
        patch.setenv("RAY_metrics_report_interval_ms", "4000")  # instead of ten seconds
        with started(config, folder, KEY) as service:
            yield Watched(service, redis, metrics_port)
