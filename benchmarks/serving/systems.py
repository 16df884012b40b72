"""The systems by name: NAME, NAME:VARIANT, and ours@CHECKOUT for another state of this repository.

The optional peers live in environments of their own (docs/benchmarks.md says how to make them), which borrow from ours
what they can share, so that our lock files stay ours. Each is skipped, with the reason, where it is not installed.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import models, results, service
from benchmarks.load import MODEL, Protocol
from benchmarks.results import ROOT, SCRATCH
from benchmarks.service import Launch, ServiceError
from reranker.config import ModelConfig
from reranker.model.checkpoint import find_checkpoint
from reranker.model.families import PREFIX, SUFFIX

OURS, PEER, HAPROXY = "ours", "vllm-serve", "haproxy"
DEFAULT = (OURS, PEER)
PEERS = ROOT / "build" / "peers"
"""A virtual environment with sentence-transformers and what Ray Serve LLM needs."""
INFINITY = ROOT / "build" / "infinity"
_PLAIN_ROLES = (("", "server"),)
_VLLM_ROLES = (("VLLM::Worker", "worker"), ("VLLM::EngineCore", "engine core"), ("--served-model-name", "api server"))
_RAY_ROLES = (
    *(("LLMServer", "engine's server"), ("VLLM::", "engine"), ("OpenAiIngress", "ingress"), ("ProxyActor", "proxy")),
    ("", "rest of Ray"),
)
_TEXT = "messages | selectattr('role', 'equalto', '{role}') | map(attribute='content') | join"
# The model card's, which is ours too. vLLM publishes examples/pooling/score/template/qwen3_reranker.jinja: the same
# text, but that file ends in the template's own last newline, which Jinja takes off, so its prompts end in
# "</think>\n" where the card's end in "</think>\n\n". As many tokens, another last one, other scores.
TEMPLATE = (
    f"{PREFIX}<Instruct>: {{{{ instruction | default('{ModelConfig().instruction_text()}') }}}}\n<Query>: {{{{ "
    f"{_TEXT.format(role='query')} }}}}\n<Document>: {{{{ {_TEXT.format(role='document')} }}}}{SUFFIX}\n"
)
_TEMPLATE_NOTE = (
    "template: the model card's, as ours; vLLM's published qwen3_reranker.jinja loses its last newline in Jinja: "
    "as many tokens, other scores"
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every system serves."""

    shape: str
    gpu: bool = field(default_factory=lambda: bool(results.gpus()))

    @property
    def folder(self) -> Path:
        """The checkpoint, as published models are: Qwen3ForCausalLM."""
        return models.checkpoint(self.shape)

    @property
    def dtype(self) -> str:
        return models.dtype(self.shape)


@dataclass(frozen=True, slots=True)
class Variant:
    """Options of `vllm serve` besides those it needs."""

    why: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/rerank"


_LEAN = ("--disable-uvicorn-access-log", "--disable-log-stats")
_LARGE = ("--max-num-batched-tokens", "8192", "--max-num-seqs", "256")
VARIANTS = {
    "docs": Variant(
        "nothing but what its docs ask for: compiled, threads bound by itself, 2,048 tokens, 128 sequences"
    ),
    "eager": Variant("not compiled", ("--enforce-eager",)),
    "nobind": Variant(
        "one compute thread, not bound", environment={"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    ),
    "core1": Variant("one compute thread, on the last core", environment={"VLLM_CPU_OMP_THREADS_BIND": "1"}),
    "two-threads": Variant("a compute thread for each of two cores", environment={"VLLM_CPU_OMP_THREADS_BIND": "0-1"}),
    "iomp": Variant(
        "Intel's OpenMP, as its docs advise on CPUs",
        environment={"LD_PRELOAD": str(Path(sys.prefix) / "lib" / "libiomp5.so")},
    ),
    "blocks32": Variant("prefix-cache blocks of 32 tokens, so that heads are shared", ("--block-size", "32")),
    "batch8192": Variant("steps as large as ours", _LARGE),
    "renderers2": Variant("two threads that tokenize", ("--renderer-num-workers", "2")),
    "lean": Variant("no line of log per request, no statistics", _LEAN),
    "score-api": Variant("/score in place of /rerank: documents are not sent back", path="/score"),
    "tuned": Variant("lean, blocks32, batch8192", (*_LEAN, "--block-size", "32", *_LARGE)),
}
BEST = "docs"
"""Of the variants, on CPUs and GPUs."""


def ours(bench: Bench, variant: str = "", checkout: Path = ROOT) -> Launch:
    """Our service with one engine replica, of this checkout or another state of it.

    The variant is `key=value,…`: settings of the application, such as engine.max_batch_tokens=4096; and `haproxy`:
    with Ray's in front of the ingress, instead of its own listener.
    """
    settings = set(filter(None, variant.split(",")))
    proxied = HAPROXY in settings
    arguments: dict[str, Any] = {"model": {"name": "demo" if bench.shape == "demo" else str(bench.folder)}}
    arguments["cache"] = {"enabled": False}
    notes = ["cache is off: what is compared is scoring"]
    if bench.shape != "demo":
        # It refuses a model that does not tell relevant from irrelevant, which random weights do not.
        arguments["engine"] = {"startup_check": False}
        notes.append("engine.startup_check is off: the weights are random")
    configure(arguments, settings - {HAPROXY})
    config = service.configuration(arguments, checkout) | ({"proxy_location": "EveryNode"} if proxied else {})
    launch = service.ours(
        config,
        f"{bench.shape}-{checkout.name}-{variant}",
        replicas=1,
        checkout=checkout,
        required=not variant,
        notes=(f"args: {arguments}", *notes),
    )
    return replace(launch, environment=launch.environment | {"RAY_SERVE_ENABLE_HA_PROXY": "1" if proxied else "0"})


def configure(arguments: dict[str, Any], settings: Iterable[str]) -> None:
    """Set keys such as engine.max_batch_tokens=4096 in an application's arguments."""
    for setting in settings:
        key, _, value = setting.partition("=")
        *groups, name = key.split(".")
        tree = arguments
        for group in groups:
            tree = tree.setdefault(group, {})
        tree[name] = yaml.safe_load(value)


def vllm_serve(bench: Bench, variant: str = "") -> Launch:
    """`vllm serve`, the engine's own server, of the vLLM that we run, with the score template that its docs ask for."""
    name = variant or BEST
    if name not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of vllm-serve; there are {', '.join(VARIANTS)}")
    chosen = VARIANTS[name]
    SCRATCH.mkdir(parents=True, exist_ok=True)
    template = SCRATCH / "score_template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    checkpoint = find_checkpoint(ModelConfig(name=str(bench.folder)))
    # The CPU build's `vllm` command fails: it asks for the version of a distribution of that name. The module behind
    # it is the same server.
    if results.version("vllm"):
        start = [service.program("vllm"), "serve", str(bench.folder)]
    else:
        start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(bench.folder)]
    cpu = {} if bench.gpu else {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, as ours; its own default is most of the memory
    return Launch(
        command=(
            *start,
            *("--host", "127.0.0.1", "--port", "{port}", "--served-model-name", MODEL, "--runner", "pooling"),
            *("--hf-overrides", json.dumps(dict(checkpoint.family.hf_overrides)), "--chat-template", str(template)),
            *("--dtype", bench.dtype, "--max-model-len", str(checkpoint.max_pair_tokens)),
            *chosen.options,
        ),
        protocol=Protocol(chosen.path, "rerank" if chosen.path == "/rerank" else "score"),
        roles=_VLLM_ROLES,
        environment={"VLLM_NO_USAGE_STATS": "1", **cpu, **chosen.environment},
        folder=SCRATCH,
        required=not variant,
        notes=(f"variant {name}: {chosen.why}", _TEMPLATE_NOTE),
    )


def _plain(bench: Bench, kind: str) -> Launch:
    """Transformers, or sentence-transformers' CrossEncoder, which takes a published checkpoint from version 6 on."""
    python = sys.executable if kind == "transformers" else _python(PEERS, "sentence_transformers")
    command = (python, "-m", "benchmarks.serving.plain_server", kind, str(bench.folder), "--dtype", bench.dtype)
    return Launch(
        command=(*command, "--port", "{port}"),
        protocol=Protocol("/rerank", "rerank"),
        roles=_PLAIN_ROLES,
        environment={"PYTHONPATH": str(ROOT)},
        notes=("one list at a time, in batches of 32, behind a bare aiohttp server; all cores",),
    )


def _infinity(bench: Bench) -> Launch:
    """Infinity, which loads classifiers only: it gets the checkpoint as one, and prompts made by the client."""
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


def _ray_serve_llm(bench: Bench) -> Launch:
    """Ray Serve LLM's /v1/score: the same engine behind Ray's own ingress."""
    python = _python(PEERS, "ray.serve.llm")
    checkpoint = find_checkpoint(ModelConfig(name=str(bench.folder)))
    engine: dict[str, Any] = {
        "runner": "pooling",
        "hf_overrides": dict(checkpoint.family.hf_overrides),
        "dtype": bench.dtype,
        "max_model_len": checkpoint.max_pair_tokens,
        "chat_template": TEMPLATE,
    }
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": MODEL, "model_source": str(bench.folder)},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": 1},
        "runtime_env": {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}},
    }
    if not bench.gpu:
        engine["distributed_executor_backend"] = "mp"
        model["accelerator_config"] = {"kind": "cpu"}
    # The ingress waits more than it computes; on two cores it would never be placed beside the engine.
    arguments = {"llm_configs": [model], "ingress_deployment_config": {"ray_actor_options": {"num_cpus": 0}}}
    application = {"name": "llm", "route_prefix": "/", "import_path": "ray.serve.llm:build_openai_app"}
    config = {"http_options": {"host": "127.0.0.1"}, "applications": [application | {"args": arguments}]}
    path = service.write_config(config, f"ray-serve-llm-{bench.shape}")
    packages = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(packages, capture_output=True, text=True, check=True).stdout.strip()
    return Launch(
        command=(
            sys.executable,
            "-m",
            "benchmarks.serving.plain_server",
            "serve-config",
            str(path),
            "--port",
            "{port}",
        ),
        protocol=Protocol("/v1/score", "score"),
        roles=_RAY_ROLES,
        environment={"PYTHONPATH": f"{ROOT}:{own}"},  # Ray's workers inherit it
        health="/v1/models",
    )


def _python(environment: Path, module: str) -> str:
    """The interpreter that can import a module: a peer environment's, else ours."""
    reason = ""
    for python in (environment / "bin" / "python", Path(sys.executable)):
        if python.exists():
            tried = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return str(python)
            reason = reason or tried.stderr.strip().splitlines()[-1]
    raise ServiceError(f"not installed ({reason}); docs/benchmarks.md says how")


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


_PEERS: dict[str, Callable[[Bench], Launch]] = {
    "ray-serve-llm": _ray_serve_llm,
    "transformers": partial(_plain, kind="transformers"),
    "cross-encoder": partial(_plain, kind="cross-encoder"),
    "infinity": _infinity,
}
NAMES = (OURS, PEER, *_PEERS)


def launch(system: str, bench: Bench) -> Launch:
    """Describe the start of a system; ValueError: there is none, ServiceError: it is not installed here."""
    name, _, variant = system.partition(":")
    name, _, checkout = name.partition("@")
    if name == OURS:
        return ours(bench, variant, Path(checkout).resolve() if checkout else ROOT)
    if name == PEER and not checkout:
        return vllm_serve(bench, variant)
    if name not in _PEERS or checkout or variant:
        raise ValueError(f"no system {system!r}; there are {', '.join(NAMES)}")
    return _PEERS[name](bench)


def is_ours(system: str) -> bool:
    return system.partition(":")[0].partition("@")[0] == OURS
