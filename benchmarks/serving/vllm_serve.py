"""`vllm serve`, the engine's own server, of the vLLM version that we run, with the score template its docs ask for."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.machine import SCRATCH, program, version
from benchmarks.serving.protocols import MODEL, Protocol
from benchmarks.serving.system import Bench, Launch
from reranker.config import ModelConfig
from reranker.model.checkpoint import find_checkpoint
from reranker.model.families import PREFIX, SUFFIX

_ROLES = (("VLLM::Worker", "worker"), ("VLLM::EngineCore", "engine core"), ("--served-model-name", "api server"))
_TEXT = "messages | selectattr('role', 'equalto', '{role}') | map(attribute='content') | join"
# The model card's, which is ours too. vLLM publishes examples/pooling/score/template/qwen3_reranker.jinja: the same
# text, but that file ends in the template's own last newline, which Jinja takes off, so its prompts end in
# "</think>\n" where the card's end in "</think>\n\n". As many tokens, another last one, other scores.
TEMPLATE = (
    PREFIX
    + "<Instruct>: {{ instruction | default('"
    + ModelConfig().instruction_text()
    + "') }}\n<Query>: {{ "
    + _TEXT.format(role="query")
    + " }}\n<Document>: {{ "
    + _TEXT.format(role="document")
    + " }}"
    + SUFFIX
    + "\n"  # the one that Jinja takes off
)
_TEMPLATE_NOTE = (
    "template: the model card's, as ours; vLLM's published qwen3_reranker.jinja loses its last newline in Jinja: "
    "as many tokens, other scores"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """Options besides those it needs."""

    why: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/rerank"


_LEAN = ("--disable-uvicorn-access-log", "--disable-log-stats")
_IOMP = str(Path(sys.prefix) / "lib" / "libiomp5.so")
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
    "iomp": Variant("Intel's OpenMP, as its docs advise on CPUs", environment={"LD_PRELOAD": _IOMP}),
    "blocks32": Variant("prefix-cache blocks of 32 tokens, so that heads are shared", ("--block-size", "32")),
    "batch8192": Variant("steps as large as ours", ("--max-num-batched-tokens", "8192", "--max-num-seqs", "256")),
    "renderers2": Variant("two threads that tokenize", ("--renderer-num-workers", "2")),
    "lean": Variant("no line of log per request, no statistics", _LEAN),
    "score-api": Variant("/score in place of /rerank: documents are not sent back", path="/score"),
    "tuned": Variant(
        "lean, blocks32, batch8192",
        (*_LEAN, "--block-size", "32", "--max-num-batched-tokens", "8192", "--max-num-seqs", "256"),
    ),
}
BEST_ON_CPU, BEST_ON_GPU = "docs", "docs"


def launch(bench: Bench, variant: str) -> Launch:
    """Describe the start.

    Args:
        bench: What it serves.
        variant: One of `VARIANTS`; empty: the best of them.

    Raises:
        ValueError: There is none of this name.
    """
    name = variant or (BEST_ON_GPU if bench.gpu else BEST_ON_CPU)
    if name not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of vllm-serve; there are {', '.join(VARIANTS)}")
    chosen = VARIANTS[name]
    SCRATCH.mkdir(parents=True, exist_ok=True)
    template = SCRATCH / "score_template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    checkpoint = find_checkpoint(ModelConfig(name=str(bench.folder)))
    # The CPU build's `vllm` command fails: it asks for the version of a distribution of that name. The module behind
    # it is the same server.
    if version("vllm"):
        start = [program("vllm"), "serve", str(bench.folder)]
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
        roles=_ROLES,
        environment={"VLLM_NO_USAGE_STATS": "1", **cpu, **chosen.environment},
        folder=SCRATCH,
        required=not variant,
        notes=(f"variant {name}: {chosen.why}", _TEMPLATE_NOTE),
    )
