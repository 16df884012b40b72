"""`make serve` must refuse what cannot work before it starts twenty processes."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deployments.cli import config as configuring
from deployments.cli.config import load_config
from deployments.cli.config import startable_config as load
from deployments.cli.main import main
from deployments.http.address import bound_socket
from deployments.http.address import configured_address as address
from reranker.errors import ConfigurationError, ModelNotFoundError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.search.embedding import SIMULATED
from tests.indexes import DOCUMENTS, build

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write(folder: Path, **changes: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(CONFIG.read_text()) | changes))
    return path


def test_overrides_replace_the_files_values(free_port: int) -> None:
    config = load(CONFIG, host="127.0.0.2", port=free_port, model=str(DEMO_MODEL))
    assert address(config) == ("127.0.0.2", free_port)
    assert config["applications"][0]["args"]["model"]["name"] == str(DEMO_MODEL)


def _engine_deployments(config: dict[str, Any]) -> list[dict[str, Any]]:
    deployments = config["applications"][0]["deployments"]
    return [one for one in deployments if one["name"] == "EngineReplica"]


def _edited(folder: Path, **changes: object) -> Path:
    """The configuration with another value for these keys of our application."""
    applications = yaml.safe_load(CONFIG.read_text())["applications"]
    applications[0] |= changes
    return _write(folder, applications=applications)


def test_fixed_number_of_replicas_replaces_autoscaling(tmp_path: Path, free_port: int) -> None:
    """Serve refuses a deployment that has both."""
    engine = {"name": "EngineReplica", "autoscaling_config": {"max_replicas": 9}, "max_ongoing_requests": 7}
    path = _edited(tmp_path, deployments=[{"name": "Ingress", "num_replicas": 2}, engine])
    config = load(path, port=free_port, replicas=3)
    assert _engine_deployments(config) == [{"name": "EngineReplica", "num_replicas": 3, "max_ongoing_requests": 7}]
    assert config["applications"][0]["deployments"][0] == {"name": "Ingress", "num_replicas": 2}


@pytest.mark.parametrize("deployments", [None, []])
def test_number_of_replicas_needs_no_deployments_in_the_file(
    tmp_path: Path, free_port: int, deployments: list[object] | None
) -> None:
    config = load(_edited(tmp_path, deployments=deployments), port=free_port, replicas=2)
    assert _engine_deployments(config) == [{"name": "EngineReplica", "num_replicas": 2}]


def test_no_replica_is_refused(free_port: int) -> None:
    with pytest.raises(ConfigurationError, match="REPLICAS=1"):
        load(CONFIG, port=free_port, replicas=0)


@pytest.mark.parametrize(
    ("replicas", "arguments", "threads"),
    [
        (1, {}, [8]),
        (None, {}, [4]),  # two, if there is much to do
        (3, {}, [2]),
        (9, {}, [None]),
        (1, {"engine": {"cpu_threads": 3}}, [3]),
        (1, {"engine": {"cpus": 8}}, [None]),
        (1, {"engine": {"simulated": {}}}, [None]),
        (3, {"models": {"a": {}, "b": {"engine": {"cpu_threads": 1}}, "c": {}}, "default": "c"}, [None, 1, None]),
        (2, {"models": {"a": {}, "b": {}}, "default": "b"}, [2, 2]),
    ],
)
def test_engines_share_the_cores_of_a_machine_that_is_theirs(
    tmp_path: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    replicas: int | None,
    arguments: dict[str, Any],
    threads: list[int | None],
) -> None:
    monkeypatch.setattr(configuring, "machine_cores", lambda: 8)
    path = _edited(tmp_path, args=arguments)
    args = load(path, port=free_port, replicas=replicas)["applications"][0]["args"]
    groups = args.get("models", {"": args}).values()
    assert [(group.get("engine") or {}).get("cpu_threads") for group in groups] == threads


def test_without_overrides_the_file_is_taken_as_it_is(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuring, "machine_cores", lambda: 1)
    expected = yaml.safe_load(CONFIG.read_text())
    expected.setdefault("http_options", {})["port"] = free_port
    assert load(CONFIG, port=free_port)["applications"] == expected["applications"]


@pytest.mark.parametrize(
    ("engine", "simulated"),
    [
        (None, {}),
        ({"max_batch_pairs": 8}, {}),
        ({"simulated": None}, {}),
        ({"simulated": {"tokens_per_s": 5}}, {"tokens_per_s": 5}),
    ],
)
def test_engines_are_simulated_at_the_configured_cost(
    tmp_path: Path, free_port: int, engine: dict[str, object] | None, simulated: dict[str, object]
) -> None:
    config = load(_edited(tmp_path, args={"engine": engine} if engine else {}), port=free_port, simulated=True)
    assert config["applications"][0]["args"]["engine"] == (engine or {}) | {"simulated": simulated}


def test_relative_model_folder_becomes_absolute(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas have another working directory."""
    monkeypatch.chdir(DEMO_MODEL.parent)
    config = load(CONFIG, port=free_port, model=DEMO_MODEL.name)
    assert config["applications"][0]["args"]["model"]["name"] == str(DEMO_MODEL)


def test_taken_port_is_named_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1:{port}.*make serve PORT={port + 1}"):
            load(CONFIG, port=port)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_address_is_one_to_listen_on(host: str, free_port: int) -> None:
    assert address(load(CONFIG, host=host, port=free_port)) == ("::1", free_port)


def test_taken_ipv6_port_is_named_as_in_a_url() -> None:
    with bound_socket("::1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"\[::1\]:{port} "):
            load(CONFIG, host="::1", port=port)


def test_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="port 99999"):
        load(CONFIG, port=99_999)


def test_configuration_without_our_application_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"deployments\.app:build_app"):
        load(_write(tmp_path, applications=[{"import_path": "other:app"}]))


@pytest.mark.parametrize("content", ["", "a: [", "just text", "- a list"])
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError):
        load(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "nothing.yaml")


def test_unknown_model_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError):
        load(CONFIG, port=free_port, model="no-such-owner/no-such-model")


def test_command_names_the_wrong_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    applications = yaml.safe_load(CONFIG.read_text())["applications"]
    applications[0]["args"] = {"engine": {"max_batch_token": 5}}
    assert main(["serve", "--config", str(_write(tmp_path, applications=applications))]) == 1
    assert "args.engine.max_batch_token: Extra inputs are not permitted" in capsys.readouterr().err


def test_command_says_when_no_service_is_there(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--url", f"http://127.0.0.1:{free_port}", "--query", "q", "--document", "d"]) == 1
    assert "make serve" in capsys.readouterr().err


def test_public_address_needs_keys_before_the_start(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens the service to the network by accident is told, not found out."""
    options = {"http_options": {"host": "0.0.0.0"}}  # noqa: S104 - refused
    with pytest.raises(ConfigurationError, match=r"http_options\.host is 0\.0\.0\.0.*RERANKER_API_KEYS"):
        load(_write(tmp_path, **options), port=free_port)
    monkeypatch.setenv("RERANKER_API_KEYS", "a-key")
    assert address(load(_write(tmp_path, **options), port=free_port))[0] == "0.0.0.0"  # noqa: S104 - not bound


def test_everybody_is_let_in_at_a_public_address_if_it_is_meant(tmp_path: Path, free_port: int) -> None:
    path = _edited(tmp_path, args={"access": {"allow_anonymous": True}})
    config = yaml.safe_load(path.read_text()) | {"http_options": {"host": "0.0.0.0"}}  # noqa: S104 - not bound
    path.write_text(yaml.safe_dump(config))
    assert load(path, port=free_port)


def test_indexes_are_served_with_the_model_that_their_vectors_come_from(tmp_path: Path, free_port: int) -> None:
    paths = {name: build(tmp_path / name, DOCUMENTS, vectors=name == "a") for name in ("b", "a")}
    indexes = {"a": {"path": "/elsewhere", "candidates": 7}, "c": {"path": "/c"}}
    written = _edited(tmp_path, args={"search": {"indexes": indexes}})
    config = load(written, port=free_port, indexes=paths)
    search = config["applications"][0]["args"]["search"]
    assert list(search["indexes"]) == ["b", "a"]  # the first is the default
    assert search["indexes"]["a"] == {"path": str(paths["a"]), "candidates": 7}
    assert search["embedding"]["model"] == SIMULATED


@pytest.mark.parametrize(
    ("configured", "served"),
    [
        ({}, {"model": SIMULATED, "revision": None, "url": "http://host:8000/v1"}),
        ({"model": SIMULATED, "cpus": 2}, {"model": SIMULATED, "cpus": 2}),  # it is loaded here
    ],
)
def test_index_that_a_url_embedded_is_served_with_it_unless_the_configuration_says_how(
    tmp_path: Path, free_port: int, configured: dict[str, object], served: dict[str, object]
) -> None:
    index = build(tmp_path / "index", DOCUMENTS)
    info = index / "versions" / "000001" / "index.json"
    info.write_text(info.read_text().replace('"url": null', '"url": "http://host:8000/v1"'))
    written = _edited(tmp_path, args={"search": {"embedding": configured}})
    config = load(written, port=free_port, indexes={"index": index})
    assert config["applications"][0]["args"]["search"]["embedding"] == served


def test_index_that_is_not_there_is_named_before_the_start(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(ConfigurationError, match="reranker index build"):
        load(CONFIG, port=free_port, indexes={"docs": tmp_path})


def test_two_indexes_need_two_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(CONFIG), "--index", str(tmp_path), "--index", f"{tmp_path.name}=x"]) == 1
    assert "two indexes have the same name" in capsys.readouterr().err


def test_the_playground_can_be_left_out(free_port: int) -> None:
    names = {ui: [one["name"] for one in load(CONFIG, port=free_port, ui=ui)["applications"]] for ui in (True, False)}
    assert names == {True: ["reranker", "playground"], False: ["reranker"]}


def test_a_wrong_setting_of_the_playground_stops_the_start(tmp_path: Path, free_port: int) -> None:
    applications = yaml.safe_load(CONFIG.read_text())["applications"]
    applications[1]["args"] = {"services": {"other": "no url"}}
    with pytest.raises(ValidationError, match="must begin with http"):
        load(_write(tmp_path, applications=applications), port=free_port)


@pytest.mark.parametrize("path", [CONFIG, *CONFIG.parent.glob("k8s/overlays/*/serve_config.yaml")], ids=str)
def test_settings_of_every_committed_configuration_can_be_read_here(path: Path) -> None:
    """`check`, `score --local` and `batch` read a production configuration on a machine without its keys and ports."""
    assert load_config(path, "demo").model.name == "demo"
    assert load_config(path).model.name
