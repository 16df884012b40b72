"""A service for whoever watches it: two ingresses, two simulated engines that a policy scales, Redis, and API keys."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import Service, configuration, free_port
from tests.integration.scraping import exporter_of, ray_address
from tests.integration.sharing import shared
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


@contextlib.contextmanager
def watched_service(folder: Path) -> Iterator[Watched]:
    """Run it."""
    (folder / "keys.yaml").write_text(_KEYS)
    with RedisServer(folder) as redis:
        yield from _running(folder, redis)


def _running(folder: Path, redis: RedisServer) -> Iterator[Watched]:
    metrics_port = free_port()
    args: dict[str, Any] = {
        "engine": {"max_batch_tokens": 1_000},
        "admission": {"max_queue_s": 2},
        "cache": {"enabled": True, "redis": {"url": redis.url}},
        "access": {"keys_file": str(folder / "keys.yaml")},
        "observability": {"metrics_port": metrics_port},
    }
    config = configuration(args=args, simulated={"tokens_per_s": 20_000}, ingresses=2)
    [engine] = [one for one in config["applications"][0]["deployments"] if one["name"] == "EngineReplica"]
    engine["autoscaling_config"] = _AUTOSCALING
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "4000")  # instead of ten seconds
        service = Service(path, folder / "service.log", KEY)
    try:
        service.wait_until_ready(2)
        yield Watched(service, redis, metrics_port)
    finally:
        service.stop()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Shared by all tests that look at it; they may kill replicas, and wait until there are as many again."""
    yield from shared("watched", watched_service(tmp_path_factory.mktemp("watched")))
