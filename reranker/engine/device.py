"""An engine's device on this machine, by the vLLM build that is installed and what NVIDIA's driver says; no torch."""

from __future__ import annotations

import logging
import os
import runpy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

import pynvml

from reranker.config import EngineConfig
from reranker.errors import DeviceError
from reranker.model.checkpoint import vllm_distribution

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]

_OLDEST, _BFLOAT16 = (7, 5), (8, 0)
"""Compute capabilities: the least that vLLM's wheel has kernels for, and the least with bfloat16."""
_OLDEST_DRIVER = {12: 525, 13: 580}
"""By CUDA's major version: https://docs.nvidia.com/deploy/cuda-compatibility/"""
_ON_THE_CPU = "`make serve GPU=0` serves on the CPU"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    capability: tuple[int, int]
    """NVIDIA's compute capability."""
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What is installed here, and what the driver says: all that decides about a device. Tests put one in its place."""

    build: Device | None
    """vLLM's; None: there is none."""
    cuda: str = ""
    """The version of CUDA that torch was built for. Empty: none."""
    gpus: tuple[Gpu, ...] = ()
    trouble: str = "NVIDIA's driver is not installed"
    """Why there are no GPUs, where there are none."""
    driver: str = ""
    driver_cuda: str = ""
    """The newest version of CUDA that the driver runs."""


def here(*, every_gpu: bool = False) -> Machine:
    """Look. Only the GPUs that CUDA_VISIBLE_DEVICES leaves; with `every_gpu`, also those that Ray has not given us."""
    build, cuda = _build(), _cuda()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return Machine(build, cuda)
    except pynvml.NVMLError as error:
        return Machine(build, cuda, trouble=f"NVIDIA's driver does not work: {error}")
    try:
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        driver, driver_cuda = pynvml.nvmlSystemGetDriverVersion(), f"{number // 1000}.{number % 1000 // 10}"
        visible = None if every_gpu else os.environ.get("CUDA_VISIBLE_DEVICES")
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        gpus = tuple(
            Gpu(
                pynvml.nvmlDeviceGetName(handle),
                pynvml.nvmlDeviceGetCudaComputeCapability(handle),
                pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30,
            )
            for place, handle in enumerate(handles)
            if visible is None or _is_listed(visible, place, pynvml.nvmlDeviceGetUUID(handle))
        )
    except pynvml.NVMLError as error:
        return Machine(build, cuda, trouble=f"NVIDIA's driver does not work: {error}")
    finally:
        pynvml.nvmlShutdown()
    trouble = "CUDA_VISIBLE_DEVICES hides all of them" if handles else "NVIDIA's driver finds none"
    return Machine(build, cuda, gpus, trouble, driver, driver_cuda)


def _is_listed(visible: str, place: int, uuid: str) -> bool:
    names = [name.strip() for name in visible.split(",") if name.strip()]
    # A part of a GPU (MIG) has an identifier of its own: the cards of a machine are alike, and the first speaks for it.
    return any(
        name == str(place) or uuid.startswith(name) if not name.startswith("MIG-") else place == 0 for name in names
    )


def _build() -> Device | None:
    found = vllm_distribution()
    if found is None:
        return None
    return "cpu" if "cpu" in f"{found.name} {found.version}" else "cuda"  # built from source: vllm 0.32.0+cpu


def _cuda() -> str:
    try:
        torch = distribution("torch")
        return str(runpy.run_path(str(torch.locate_file("torch/version.py"))).get("cuda") or "")
    except (PackageNotFoundError, OSError):
        return ""


def device_for(config: EngineConfig, dtype: str, machine: Machine | None = None) -> Device:
    """Choose the device of an engine on this machine (None: as `here` sees it), as the configuration asks.

    `dtype` is what the model has on a GPU; "auto" is mostly bfloat16. DeviceError: the engine cannot run here, or not
    with what is installed.
    """
    machine = machine or here()
    wanted = "engine.device is cuda" if config.device == "cuda" else ""
    if config.tensor_parallel_size > 1:
        wanted = f"engine.tensor_parallel_size is {config.tensor_parallel_size}"
    if machine.build is None:
        raise DeviceError("vLLM is not installed in this environment", "`make serve` makes one that has it")
    if machine.build == "cuda":
        _require_gpu(config, dtype, machine)
        return "cuda"
    if machine.gpus and wanted:
        raise DeviceError(f"{wanted}, and vLLM's CPU build is installed", "`make serve GPU=1` installs the CUDA build")
    if wanted:
        raise DeviceError(f"{wanted}, and there is no GPU ({machine.trouble})", f"without this setting {_ON_THE_CPU}")
    if machine.gpus and config.device == "auto":
        idle = "%s stands idle, as vLLM's CPU build is installed: `make serve GPU=1` installs the CUDA build"
        logger.warning(idle, machine.gpus[0].name)
    return "cpu"


def _require_gpu(config: EngineConfig, dtype: str, machine: Machine) -> None:
    """Raise DeviceError unless vLLM's CUDA build can compute on the machine's GPUs."""
    installed = "vLLM's CUDA build is installed"
    if config.device == "cpu":
        raise DeviceError(
            f"the engine is to run on the CPU, and {installed}", "`make serve GPU=0` installs the CPU build"
        )
    if not machine.cuda:
        raise DeviceError(f"{installed}, and its torch has no CUDA", "`make clean serve GPU=1` installs both anew")
    major = int(machine.cuda.split(".")[0])
    oldest = _OLDEST_DRIVER.get(major, f"for CUDA {major}")
    if not machine.gpus:
        remedy = f"install NVIDIA's driver ({oldest} or newer), or {_ON_THE_CPU}"
        raise DeviceError(f"{installed}, and there is no GPU ({machine.trouble})", remedy)
    if int(machine.driver_cuda.split(".")[0]) < major:
        said = f"NVIDIA's driver {machine.driver} runs CUDA up to {machine.driver_cuda}, and vLLM needs {machine.cuda}"
        raise DeviceError(said, f"install driver {oldest} or newer, or {_ON_THE_CPU}")
    needed, why = (_OLDEST, "vLLM") if dtype in ("float16", "float32") else (_BFLOAT16, "bfloat16")
    for gpu in machine.gpus:
        if gpu.capability < needed:
            has, needs = (".".join(map(str, one)) for one in (gpu.capability, needed))
            other = "set model.dtype: float16, " if gpu.capability >= _OLDEST else ""
            said = f"{gpu.name} has the compute capability {has}, and {why} needs {needs}"
            raise DeviceError(said, f"{other}take another GPU, or {_ON_THE_CPU}")
    if config.tensor_parallel_size > len(machine.gpus):
        said = f"engine.tensor_parallel_size is {config.tensor_parallel_size}, and this machine has {len(machine.gpus)}"
        raise DeviceError(f"{said} GPU{'s' * (len(machine.gpus) > 1)}", "lower it, or take a smaller model")
