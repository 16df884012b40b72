"""The optional peers: each skipped, with the reason, where it is not installed or cannot serve the model.

They live in environments of their own (docs/benchmarks.md says how to make them), which borrow from ours what they can
share, so that our lock files stay ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serving.machine import ROOT, SCRATCH
from benchmarks.serving.protocols import MODEL, Protocol
from benchmarks.serving.system import Bench, Launch, UnavailableError
from benchmarks.serving.vllm_serve import TEMPLATE
from reranker.config import ModelConfig
from reranker.model.checkpoint import find_checkpoint

PEERS = ROOT / "build" / "peers"
"""A virtual environment with sentence-transformers and what Ray Serve LLM needs."""
INFINITY = ROOT / "build" / "infinity"
_PLAIN_ROLES = (("", "server"),)
_RAY_ROLES = (
    ("LLMServer", "engine's server"),
    ("VLLM::", "engine"),
    ("OpenAiIngress", "ingress"),
    ("ProxyActor", "proxy"),
)


def transformers_loop(bench: Bench, variant: str) -> Launch:
    """Plain Transformers, the model card's code."""
    _no_variant("transformers", variant)
    return _plain(bench, "transformers", sys.executable)


def cross_encoder(bench: Bench, variant: str) -> Launch:
    """sentence-transformers' CrossEncoder, which takes the published checkpoint as it is from version 6 on."""
    _no_variant("cross-encoder", variant)
    return _plain(bench, "cross-encoder", _python(PEERS, "sentence_transformers"))


def _plain(bench: Bench, kind: str, python: str) -> Launch:
    command = (python, "-m", "benchmarks.serving.plain_server", kind, str(bench.folder), "--dtype", bench.dtype)
    return Launch(
        command=(*command, "--port", "{port}"),
        protocol=Protocol("/rerank", "rerank"),
        roles=_PLAIN_ROLES,
        environment={"PYTHONPATH": str(ROOT)},
        notes=("one list at a time, in batches of 32, behind a bare aiohttp server; all cores",),
    )


def infinity(bench: Bench, variant: str) -> Launch:
    """Infinity, which loads classifiers only: it gets the checkpoint as one, and prompts made by the client."""
    _no_variant("infinity", variant)
    python = _python(INFINITY, "infinity_emb")
    command = (str(Path(python).parent / "infinity_emb"), "v2", "--model-id", str(_classifier(bench)))
    device = "cuda" if bench.gpu else "cpu"
    return Launch(
        command=(
            *command,
            *("--served-model-name", MODEL, "--engine", "torch", "--device", device, "--no-bettertransformer"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        protocol=Protocol("/rerank", "rerank", templated=True),
        roles=_PLAIN_ROLES,
        environment={"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        notes=(
            "the checkpoint is converted to a classifier; sentence-transformers 3 strips the template's last newlines",
        ),
    )


def ray_serve_llm(bench: Bench, variant: str) -> Launch:
    """Ray Serve LLM's /v1/score: the same engine behind Ray's own ingress."""
    _no_variant("ray-serve-llm", variant)
    python = _python(PEERS, "ray.serve.llm")
    checkpoint = find_checkpoint(ModelConfig(name=str(bench.folder)))
    engine: dict[str, Any] = {
        "runner": "pooling",
        "hf_overrides": dict(checkpoint.family.hf_overrides),
        "dtype": bench.dtype,
        "max_model_len": checkpoint.max_pair_tokens,
        "chat_template": TEMPLATE,
    }
    if not bench.gpu:
        engine |= {"distributed_executor_backend": "mp"}
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": MODEL, "model_source": str(bench.folder)},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": 1},
        "runtime_env": {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}},
    }
    if not bench.gpu:
        model["accelerator_config"] = {"kind": "cpu"}
    config = {
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "llm",
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "args": {
                    "llm_configs": [model],
                    # It waits more than it computes; on two cores it would never be placed beside the engine.
                    "ingress_deployment_config": {"ray_actor_options": {"num_cpus": 0}},
                },
            }
        ],
    }
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = SCRATCH / f"ray-serve-llm-{bench.shape}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return Launch(
        command=(sys.executable, "-m", "benchmarks.serving.serve_run", str(path), "{port}"),
        protocol=Protocol("/v1/score", "score"),
        roles=(*_RAY_ROLES, ("", "rest of Ray")),
        environment={"PYTHONPATH": f"{ROOT}:{_packages(python)}"},  # Ray's workers inherit it
        health="/v1/models",
    )


def _python(environment: Path, module: str) -> str:
    """The interpreter that can import a module: a peer environment's, else ours.

    Raises:
        UnavailableError: None can.
    """
    reason = ""
    for python in (environment / "bin" / "python", Path(sys.executable)):
        if python.exists():
            tried = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return str(python)
            reason = reason or tried.stderr.strip().splitlines()[-1]
    raise UnavailableError(f"not installed ({reason}); docs/benchmarks.md says how")


def _packages(python: str) -> str:
    """Where an interpreter has its own packages."""
    return subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _no_variant(name: str, variant: str) -> None:
    if variant:
        raise ValueError(f"{name} has no variants")


def _classifier(bench: Bench) -> Path:
    """The checkpoint as Qwen3ForSequenceClassification: its one row is the head's "yes" less its "no"."""
    folder = SCRATCH / f"{bench.folder.name}-seq-cls"
    if (folder / "config.json").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(bench.folder)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    head = AutoModelForCausalLM.from_pretrained(bench.folder).lm_head.weight
    model = Qwen3ForSequenceClassification.from_pretrained(bench.folder, num_labels=1)
    model.score.weight.data = (head[yes].float() - head[no].float()).to(model.score.weight.dtype)[None]
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.save_pretrained(folder)
    settings = json.loads((bench.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model.save_pretrained(folder)
    return folder
