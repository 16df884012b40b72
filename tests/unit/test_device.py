"""What an engine gets on each machine, and the one sentence that is said where it gets nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import yaml

from deployments import engine_replica
from deployments.cli import config as cli_config
from deployments.cli import main
from reranker.config import EngineConfig, RerankerConfig
from reranker.engine import device
from reranker.engine.device import Gpu, Machine, device_for, here
from reranker.engine.vllm import environment
from reranker.errors import DeviceError
from reranker.model.checkpoint import find_checkpoint
from reranker.search.embedding import SIMULATED

H100, T4, V100 = Gpu("NVIDIA H100", (9, 0), 80), Gpu("Tesla T4", (7, 5), 15), Gpu("Tesla V100", (7, 0), 16)
CPU = Machine("cpu")
CPU_BUILD = Machine("cpu", gpus=(H100,), driver="580.95.05", driver_cuda="13.0")
CUDA_BUILD = Machine("cuda", "13.0", (H100,), "", "580.95.05", "13.0")
NO_GPU = Machine("cuda", "13.0")
OLD_DRIVER = Machine("cuda", "13.0", (H100,), "", "535.104.05", "12.2")


def _with(*gpus: Gpu) -> Machine:
    return Machine("cuda", "13.0", gpus, "", "580.95.05", "13.0")


@pytest.mark.parametrize(
    ("asked", "machine", "chosen"),
    [
        ("auto", CPU, "cpu"),
        ("cpu", CPU, "cpu"),
        ("auto", CPU_BUILD, "cpu"),
        ("cpu", CPU_BUILD, "cpu"),
        ("auto", CUDA_BUILD, "cuda"),
        ("cuda", CUDA_BUILD, "cuda"),
    ],
)
def test_build_that_is_installed_decides(asked: Any, machine: Machine, chosen: str) -> None:
    assert device_for(EngineConfig(device=asked), "auto", machine) == chosen


REFUSED: dict[str, tuple[EngineConfig, str, Machine, tuple[str, ...]]] = {
    "no vLLM": (EngineConfig(), "auto", Machine(None), ("vLLM is not installed", "make serve")),
    "no driver": (EngineConfig(), "auto", NO_GPU, ("CUDA build", "no GPU", "driver is not installed", "GPU=0", "580")),
    "no driver, cuda": (EngineConfig(device="cuda"), "auto", NO_GPU, ("CUDA build", "no GPU", "GPU=0")),
    "old driver": (EngineConfig(), "auto", OLD_DRIVER, ("535.104.05", "12.2", "13.0", "580", "GPU=0")),
    "no bfloat16": (EngineConfig(), "auto", _with(T4), ("Tesla T4", "7.5", "bfloat16", "8.0", "float16", "GPU=0")),
    "bfloat16": (EngineConfig(), "bfloat16", _with(H100, T4), ("Tesla T4", "7.5", "8.0")),
    "no kernels": (EngineConfig(), "float16", _with(V100), ("Tesla V100", "7.0", "7.5", "GPU=0")),
    "CPU's torch": (EngineConfig(), "auto", Machine("cuda", "", (H100,)), ("torch has no CUDA", "make clean serve")),
    "cpu asked of CUDA's": (EngineConfig(device="cpu"), "auto", CUDA_BUILD, ("on the CPU", "GPU=0")),
    "cuda asked of the CPU's": (
        EngineConfig(device="cuda"),
        "auto",
        CPU_BUILD,
        ("is cuda", "CPU build", "GPU=1"),
    ),
    "cuda without a GPU": (
        EngineConfig(device="cuda"),
        "auto",
        CPU,
        ("is cuda", "no GPU", "not installed", "GPU=0"),
    ),
    "several on a CPU": (EngineConfig(tensor_parallel_size=2), "auto", CPU, ("tensor_parallel_size is 2", "no GPU")),
    "several of one": (
        EngineConfig(tensor_parallel_size=2),
        "auto",
        CUDA_BUILD,
        ("size is 2", "has 1"),
    ),
}


@pytest.mark.parametrize(("config", "dtype", "machine", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_machine_that_cannot_is_refused_in_a_sentence_that_says_what_helps(
    config: EngineConfig, dtype: str, machine: Machine, words: tuple[str, ...]
) -> None:
    with pytest.raises(DeviceError) as caught:
        device_for(config, dtype, machine)
    said = str(caught.value)
    assert [word for word in words if word not in said] == []
    assert "\n" not in said


def test_older_gpus_take_float16() -> None:
    assert device_for(EngineConfig(), "float16", _with(T4)) == "cuda"


def test_idle_gpu_is_named_with_the_command_that_uses_it(caplog: pytest.LogCaptureFixture) -> None:
    """`make serve GPU=0` on such a machine is somebody's decision: it serves."""
    with caplog.at_level(logging.WARNING):
        device_for(EngineConfig(), "auto", CPU_BUILD)
    [said] = [record.getMessage() for record in caplog.records]
    assert "NVIDIA H100 stands idle" in said
    assert "GPU=1" in said


class Driver:
    """What `pynvml` says of a machine with two GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uuids = ["GPU-aaaa-1", "GPU-bbbb-2"]
        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
            "nvmlSystemGetDriverVersion": lambda: "570.86.10",
            "nvmlDeviceGetCount": lambda: len(self.uuids),
            "nvmlDeviceGetHandleByIndex": lambda place: place,
            "nvmlDeviceGetName": lambda place: f"GPU {place}",
            "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 9),
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=24 * 2**30),
            "nvmlDeviceGetUUID": lambda place: self.uuids[place],
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["GPU 0", "GPU 1"]),
        ("1", ["GPU 1"]),
        ("0,1", ["GPU 0", "GPU 1"]),
        ("GPU-bbbb", ["GPU 1"]),
        ("MIG-cccc", ["GPU 0"]),
        ("-1", []),
        ("", []),
    ],
)
def test_process_sees_the_gpus_that_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: list[str]
) -> None:
    Driver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = here()
    assert [gpu.name for gpu in machine.gpus] == seen
    assert (machine.driver, machine.driver_cuda) == ("570.86.10", "12.8")
    assert len(here(every_gpu=True).gpus) == 2
    if not seen:
        assert "CUDA_VISIBLE_DEVICES" in machine.trouble


def test_driver_that_does_not_work_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of the driver without a restart, for example."""

    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    Driver(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert here().gpus == ()
    assert "version mismatch" in here().trouble.lower()


def test_environment_of_these_tests_is_read_right() -> None:
    """It has the CPU build, and a torch without CUDA."""
    machine = here()
    assert (machine.build, machine.cuda) == ("cpu", "")


def test_vllm_tells_of_its_start_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which attention it took, how many tokens fit. In a command on a CPU it would stand among the answers."""
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    assert [environment(1, device=one)["VLLM_LOGGING_LEVEL"] for one in ("cuda", "cpu")] == ["INFO", "ERROR"]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (device, cli_config, engine_replica):
        monkeypatch.setattr(module, "here", lambda **_: NO_GPU)


COMMANDS = (
    ["serve"],
    ["check"],
    ["score", "--local", "--query", "a", "--document", "b"],
    ["batch", "{pairs}", "--out", "{out}"],
)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_it(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "document": "b"}\n')
    places = {"pairs": tmp_path / "pairs.jsonl", "out": tmp_path / "out"}
    assert main.main([word.format_map(places) for word in command]) == 1
    said = capsys.readouterr().err
    assert said.startswith("reranker: vLLM's CUDA build is installed, and there is no GPU")
    assert said.count("\n") == 1
    assert "GPU=0" in said


@pytest.mark.usefixtures("without_gpu")
def test_replica_says_it() -> None:
    """Whoever chose the device may have seen another machine."""
    for chosen in ("cpu", "cuda"):
        with pytest.raises(DeviceError, match="CUDA build is installed"):
            engine_replica.open_engine(RerankerConfig(), chosen)


def _ray(monkeypatch: pytest.MonkeyPatch, gpus: int, nodes: int) -> None:
    ray = SimpleNamespace(cluster_resources=lambda: {"GPU": gpus}, nodes=lambda: [{"Alive": True}] * nodes)
    monkeypatch.setattr(engine_replica, "ray", ray)


@pytest.mark.parametrize(
    ("machine", "gpus", "nodes", "chosen"),
    [
        (CUDA_BUILD, 1, 1, "cuda"),
        (CPU_BUILD, 1, 1, "cpu"),
        (CPU, 4, 3, "cuda"),  # a head without a GPU, as in Kubernetes
        (CPU, 0, 3, "cpu"),
        (CPU, 0, 1, "cpu"),
    ],
)
def test_ray_decides_for_many_machines_and_the_build_for_one(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, gpus: int, nodes: int, chosen: str
) -> None:
    _ray(monkeypatch, gpus, nodes)
    monkeypatch.setattr(engine_replica, "here", lambda **_: machine)
    assert engine_replica.choose_device(RerankerConfig(), find_checkpoint(RerankerConfig().model)) == chosen


def test_gpu_that_ray_may_not_give_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _ray(monkeypatch, 0, 1)
    monkeypatch.setattr(engine_replica, "here", lambda **_: CUDA_BUILD)
    with pytest.raises(DeviceError, match="Ray has none"):
        engine_replica.choose_device(RerankerConfig(), find_checkpoint(RerankerConfig().model))


def test_simulated_engine_reserves_no_gpu() -> None:
    config = RerankerConfig.model_validate({"engine": {"simulated": {}, "device": "cuda"}})
    assert engine_replica.resources(config, "cuda")["num_gpus"] == 0


def _dense(folder: Path, share: float | None, **embedding: object) -> Path:
    config = yaml.safe_load(Path("serve_config.yaml").read_text())
    search = {"indexes": {"docs": {"path": str(folder)}}, "embedding": {"model": "some/model"} | embedding}
    config["applications"][0]["args"] |= {"search": search}
    if share is not None:
        [engine] = [one for one in config["applications"][0]["deployments"] if one["name"] == "EngineReplica"]
        engine["ray_actor_options"] = {"num_gpus": share}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_embedding_model_and_engine_that_cannot_both_have_a_gpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two would wait for ever."""
    monkeypatch.setattr(cli_config, "here", lambda: CUDA_BUILD)
    with pytest.raises(DeviceError, match="reserves 1 GPUs and the embedding model 1, and here are 1"):
        cli_config.startable_config(_dense(tmp_path, None), port=0)
    cli_config.startable_config(_dense(tmp_path, 0.7, gpus=0.3), port=0)
    cli_config.startable_config(_dense(tmp_path, None, model=SIMULATED), port=0)
