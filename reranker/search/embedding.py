"""An embedding model in vLLM's pooling runner, held in process. Imported only where there is one.

vLLM pools as the checkpoint says (its `modules.json` and `1_Pooling`: the mean for BERT, the last token for Qwen3) and
normalizes. What is ours: the token ids, with the instruction before a query, and batches of what comes meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reranker.config import EmbeddingConfig
from reranker.errors import UnsupportedModelError
from reranker.model.checkpoint import find_folder
from reranker.model.families import max_tokens
from reranker.search.base import Kind
from reranker.types import FloatArray

_FILES = ("*.json", "*/config.json", "merges.txt", "vocab.*")
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""Source: QwenLM/Qwen3-Embedding, the model cards' `get_detailed_instruct` and its task."""


class EmbeddingPrompts:
    """Makes the token ids of texts for one embedding model."""

    def __init__(self, config: EmbeddingConfig) -> None:
        """Find the model, and load its tokenizer.

        Raises:
            ModelNotFoundError: It is neither a folder here, nor given by the hub.
            UnsupportedModelError: It is not one that we can embed with.
        """
        assert config.model is not None  # noqa: S101 - who calls this has looked; for the type checker
        self.folder = find_folder(config.model, config.revision, _FILES)
        settings = _json(self.folder / "config.json")
        limit = max_tokens(settings)
        if limit is None or not (self.folder / "tokenizer.json").is_file():
            raise UnsupportedModelError(config.model, "it lacks max_position_embeddings or a tokenizer.json")
        sentences = _json(self.folder / "sentence_bert_config.json", missing={})
        self.max_tokens = min(config.max_tokens, limit, int(sentences.get("max_seq_length") or limit))
        self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True  # "<|im_end|>" in a text stays text
        self._tokenizer.no_padding()
        self._last = _last_token(self._tokenizer, settings)
        self._tokenizer.enable_truncation(self.max_tokens - (self._last is not None))
        self._before_query = self._query_prefix(config, settings)

    def _query_prefix(self, config: EmbeddingConfig, settings: dict[str, Any]) -> str:
        instruction = config.query_instruction
        if "qwen3" in str(settings.get("model_type")):
            return f"Instruct: {instruction or _QWEN3_INSTRUCTION}\nQuery:"
        prompts = _json(self.folder / "config_sentence_transformers.json", missing={}).get("prompts") or {}
        return str(prompts.get("query", "")) if instruction is None else instruction

    def ids(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Give the token ids of each text; one that is too long is cut at its end."""
        before = self._before_query if kind == "query" else ""
        encoded = self._tokenizer.encode_batch_fast([before + text for text in texts])
        last = [] if self._last is None else [self._last]
        return [one.ids + last if one.ids[-1:] != last else one.ids for one in encoded]


def _last_token(tokenizer: Any, settings: dict[str, Any]) -> int | None:
    """The token that a model with last-token pooling must end with, where its tokenizer does not add it itself."""
    if "qwen3" not in str(settings.get("model_type")):
        return None
    end = tokenizer.token_to_id("<|endoftext|>")  # of Qwen3-Embedding; its first tokenizers left it to the caller
    adds = tokenizer.encode("a").ids[-1:] == [end]
    return None if adds or end is None else int(end)


def _json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:  # Any: JSON
    if missing is not None and not path.is_file():
        return missing
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


class VllmEmbedder:
    """See `reranker.search.base.Embedder`. One thread runs vLLM; what comes meanwhile is its next batch."""

    def __init__(self, config: EmbeddingConfig, *, device: str) -> None:
        """Load the model; returns when it can embed.

        Args:
            config: Which, and how.
            device: "cpu" or "cuda".

        Raises:
            ConfigurationError: The model is not there, or not one we can embed with.
            Exception: Whatever vLLM raises when it cannot load the model.
        """
        self._prompts = EmbeddingPrompts(config)
        self._llm = _load(embedding_args(config, self._prompts, device=device))
        self._thread = ThreadPoolExecutor(1, "embedding")
        self._waiting: list[tuple[list[list[int]], asyncio.Future[FloatArray]]] = []
        self._running: asyncio.Future[None] | None = None

    async def embed(self, texts: Sequence[str], kind: Kind) -> FloatArray:
        """Embed texts, together with whatever else is waiting."""
        ids = await asyncio.to_thread(self._prompts.ids, texts, kind)
        answer: asyncio.Future[FloatArray] = asyncio.get_running_loop().create_future()
        self._waiting.append((ids, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            wanted = [(ids, answer) for ids, answer in taken if not answer.done()]  # nobody waits for a cancelled one
            prompts = [prompt for ids, _ in wanted for prompt in ids]
            try:
                vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self.embed_ids, prompts)
            except Exception as error:  # noqa: BLE001 - whatever vLLM raises is told to who waits
                for _, answer in wanted:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            start = 0
            for ids, answer in wanted:
                if not answer.done():
                    answer.set_result(vectors[start : start + len(ids)])
                start += len(ids)

    def embed_documents(self, texts: Sequence[str]) -> FloatArray:
        """Embed documents, here and now; for who has no event loop."""
        return self.embed_ids(self._prompts.ids(texts, "document"))

    def embed_ids(self, prompts: Sequence[list[int]]) -> FloatArray:
        """Embed prompts, here and now: shape (prompts, dimensions), of length 1 each."""
        found = self._llm.embed([{"prompt_token_ids": ids} for ids in prompts], use_tqdm=False)
        vectors = np.asarray([one.outputs.embedding for one in found], dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # 1 already, but for rounding in bfloat16
        unit: FloatArray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit

    def shutdown(self) -> None:
        """Stop vLLM."""
        self._thread.shutdown(wait=True)
        self._llm.llm_engine.engine_core.shutdown()


def embedding_args(
    config: EmbeddingConfig, prompts: EmbeddingPrompts, *, device: str
) -> dict[str, Any]:  # Any: of every type
    """What we tell vLLM, by the names of its EngineArgs."""
    arguments: dict[str, Any] = {
        "model": config.model,
        "revision": config.revision,
        "dtype": config.dtype,
        "runner": "pooling",
        "convert": "embed",
        "max_model_len": prompts.max_tokens,
        "max_num_batched_tokens": max(config.max_batch_tokens, prompts.max_tokens),
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
    }
    if device == "cpu":
        # As for the reranker (vllm.py): no compiler is needed, and the prefix cache has little to keep.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    else:
        arguments |= {"gpu_memory_utilization": config.gpu_memory_utilization}
    return arguments | config.vllm_args


def _load(arguments: dict[str, Any]) -> Any:  # Any: vLLM's LLM; vllm is untyped here
    from vllm import LLM

    # On a CPU vLLM would move the worker to a process of its own; this variable is the only way to say no.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return LLM(**arguments)
