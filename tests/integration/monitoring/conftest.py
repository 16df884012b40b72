"""A service for whoever watches it: two ingresses, two simulated engines that a policy scales, Redis, and API keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.integration.conftest import Service, configuration
from tests.integration.scraping import sums
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


class Watched:
    """The service, and Ray's exporter beside it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._exporter: str | None = None

    @property
    def exporter(self) -> str:
        """Address of Ray's exporter: one of its agent's ports, which it chooses itself."""
        if self._exporter is None:
            self._exporter = next(self._exporters())
        return self._exporter

    def _exporters(self) -> Iterator[str]:
        for process in self.service.processes():
            with contextlib.suppress(psutil.Error):
                if "DashboardAgent" not in " ".join(process.cmdline()):
                    continue
                for connection in process.net_connections("tcp"):
                    address = f"127.0.0.1:{connection.laddr.port}"
                    with contextlib.suppress(httpx.HTTPError):
                        if connection.status == psutil.CONN_LISTEN and "ray_" in self._text(address):
                            yield address

    def _text(self, address: str) -> str:
        return httpx.get(f"http://{address}/metrics", timeout=5).text

    def exported(self) -> Mapping[str, float]:
        """The sum over all series of each name that Ray's exporter shows now."""
        return sums(self._text(self.exporter))


@contextlib.contextmanager
def watched_service(folder: Path) -> Iterator[Watched]:
    """Run it."""
    (folder / "keys.yaml").write_text(_KEYS)
    with RedisServer(folder) as redis:
        yield from _running(folder, redis.url)


def _running(folder: Path, redis_url: str) -> Iterator[Watched]:
    args: dict[str, Any] = {
        "engine": {"max_batch_tokens": 1_000},
        "admission": {"max_queue_s": 2},
        "cache": {"enabled": True, "redis": {"url": redis_url}},
        "access": {"keys_file": str(folder / "keys.yaml")},
    }
    config = configuration(args=args, simulated={"tokens_per_s": 20_000}, ingresses=2)
    [engine] = [one for one in config["applications"][0]["deployments"] if one["name"] == "EngineReplica"]
    engine["autoscaling_config"] = _AUTOSCALING
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # instead of ten seconds
        service = Service(path, folder / "service.log", KEY)
    try:
        service.wait_until_ready(2)
        yield Watched(service)
    finally:
        service.stop()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Shared by all tests that look at it; they may kill replicas, and wait until there are as many again."""
    with watched_service(tmp_path_factory.mktemp("watched")) as watched:
        yield watched
