"""A second application of ours in the same Ray has other keys and documents: it must not answer for the first."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.integration.conftest import configuration, started
from tests.integration.traffic import documents, wait_until

KEY, OTHER_KEY = "key-of-the-first", "key-of-the-second"


@pytest.mark.slow
def test_second_application_at_the_same_address_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(f"first: {KEY}\n")
    (tmp_path / "second.yaml").write_text(f"second: {OTHER_KEY}\n")
    config = configuration(1, {"access": {"keys_file": str(tmp_path / "first.yaml")}}, {"tokens_per_s": 100_000})
    with started(config, tmp_path, KEY) as service:
        both = copy.deepcopy(config)
        second = copy.deepcopy(config["applications"][0]) | {"name": "second", "route_prefix": "/second"}
        second["args"]["access"] = {"keys_file": str(tmp_path / "second.yaml")}
        both["applications"].append(second)
        service.deploy(both)
        statuses: list[tuple[int, int]] = []

        def refused() -> bool:
            other = service.post("q", documents(5), headers={"authorization": f"Bearer {OTHER_KEY}"})
            statuses.append((service.post(f"q {len(statuses)}", documents(5)).status_code, other.status_code))
            return bool(service.application("second")["status"] in ("DEPLOY_FAILED", "UNHEALTHY"))

        wait_until(refused, 120)
        assert set(statuses) == {(200, 401)}
        failed = service.application("second")["deployments"]["Ingress"]["message"]
        assert f"cannot listen on 127.0.0.1:{service.port}" in failed
        service.deploy(config)
        service.wait_until_ready()
        assert service.post("q", documents(5)).status_code == 200
