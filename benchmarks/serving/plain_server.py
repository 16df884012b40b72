"""A loop without an engine, behind the least HTTP there is: Transformers, or sentence-transformers' CrossEncoder.

    python -m benchmarks.serving.plain_server {transformers,cross-encoder} FOLDER --port PORT --dtype auto
    python -m benchmarks.serving.plain_server serve-config FILE --port PORT

One list at a time, in batches of 32. The prompts are the model card's. The second form runs a peer's Serve
configuration.
"""

import asyncio
import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from benchmarks.results import parser
from reranker.config import ModelConfig
from reranker.model.families import HEAD, PREFIX, SUFFIX

BATCH_PAIRS = 32
Scorer = Callable[[str, Sequence[str]], list[float]]


def transformers_scorer(folder: str, dtype: str) -> Scorer:
    """The model card's Transformers code, which keeps the last position's logits only."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    suffix = tokenizer.encode(SUFFIX, add_special_tokens=False)

    def score(query: str, documents: Sequence[str]) -> list[float]:
        head = HEAD.format(instruction=ModelConfig().instruction_text(), query=query)
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(documents), BATCH_PAIRS):
                texts = [f"{head} {document}" for document in documents[start : start + BATCH_PAIRS]]
                ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
                inputs = tokenizer.pad({"input_ids": [prefix + one + suffix for one in ids]}, return_tensors="pt")
                logits = model(**inputs.to(device), logits_to_keep=1).logits[:, -1, [no, yes]].float()
                scores += torch.softmax(logits, dim=1)[:, 1].tolist()
        return scores

    return score


def cross_encoder_scorer(folder: str, dtype: str) -> Scorer:
    """sentence-transformers 6 scores a Qwen3ForCausalLM by itself: logit("yes") - logit("no"), then a sigmoid here."""
    import torch

    library: Any = importlib.import_module("sentence_transformers")  # Any: it is not one of our dependencies
    encoder = library.CrossEncoder(folder, model_kwargs={"dtype": dtype})

    def score(query: str, documents: Sequence[str]) -> list[float]:
        head = PREFIX + HEAD.format(instruction=ModelConfig().instruction_text(), query=query)
        pairs = [(head, f" {document}{SUFFIX}") for document in documents]
        scores: list[float] = encoder.predict(
            pairs, batch_size=BATCH_PAIRS, activation_fn=torch.nn.Sigmoid(), show_progress_bar=False
        ).tolist()
        return scores

    return score


def application(score: Scorer) -> web.Application:
    thread = ThreadPoolExecutor(1)

    async def rerank(request: web.Request) -> web.Response:
        body = await request.json()
        loop = asyncio.get_running_loop()
        scores = await loop.run_in_executor(thread, score, body["query"], body["documents"])
        ranked = sorted(enumerate(scores), key=lambda one: -one[1])
        return web.json_response({"results": [{"index": i, "relevance_score": s} for i, s in ranked]})

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post("/rerank", rerank), web.get("/health", health)])
    return app


def serve_config(path: Path, port: int) -> int:
    """Run any Serve configuration, as `reranker serve` runs ours, leaving no process behind; the exit status."""
    from deployments.cli.serve import supervise

    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    return supervise(config, verbose=True)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("kind", choices=("transformers", "cross-encoder", "serve-config"))
    options.add_argument("path", type=Path)
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--dtype", default="auto")
    args = options.parse_args()
    if args.kind == "serve-config":
        return serve_config(args.path, args.port)
    make = transformers_scorer if args.kind == "transformers" else cross_encoder_scorer
    web.run_app(application(make(str(args.path), args.dtype)), host="127.0.0.1", port=args.port, print=None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
