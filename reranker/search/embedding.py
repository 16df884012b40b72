"""Embedding models: behind an OpenAI-compatible URL, in vLLM in this process, or simulated.

vLLM pools as the checkpoint says (its `modules.json` and `1_Pooling`: the mean for BERT, the last token for Qwen3).
Token ids are made here, with the instruction before a query.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reranker.config import EmbeddingConfig
from reranker.errors import ConfigurationError, RetrievalError, UnsupportedModelError
from reranker.model.checkpoint import find_folder
from reranker.model.families import max_tokens
from reranker.search.documents import Analyzer
from reranker.search.first_stages import TextKind
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

SIMULATED = "simulated"
EMBEDDING_KEY = "RERANKER_EMBEDDING_API_KEY"

_FILES = ("*.json", "*/config.json", "merges.txt", "vocab.*")
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""Source: QwenLM/Qwen3-Embedding, the model cards' `get_detailed_instruct` and its task."""
_REFUSALS = {
    401: f": the key in {EMBEDDING_KEY} is missing or wrong",
    404: ": there is no such path or no such model",
    400: ": a text may be too long, a batch too large (search.embedding.max_batch_texts), or the model another one",
}
_REFUSALS |= {403: _REFUSALS[401], 413: _REFUSALS[400], 422: _REFUSALS[400]}


class EmbeddingPrompts:
    """Makes the token ids of texts for one embedding model."""

    def __init__(self, config: EmbeddingConfig) -> None:
        """Load its tokenizer; raises ModelNotFoundError, or UnsupportedModelError if we cannot embed with it."""
        assert config.model is not None  # noqa: S101 - who calls this has looked; for the type checker
        folder = find_folder(config.model, config.revision, _FILES)
        settings = _json(folder / "config.json")
        limit = max_tokens(settings)
        if limit is None or not (folder / "tokenizer.json").is_file():
            raise UnsupportedModelError(config.model, "it lacks max_position_embeddings or a tokenizer.json")
        own_limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = min(config.max_tokens, limit, int(own_limit or limit))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True  # "<|im_end|>" in a text stays text
        self._tokenizer.no_padding()
        self._last: list[int] = []
        kind = str(settings.get("model_type"))
        if "qwen3" in kind:  # its last-token pooling needs an end, which its first tokenizers leave to the caller
            end = self._tokenizer.token_to_id("<|endoftext|>")
            self._last = [end] if end is not None and self._tokenizer.encode("a").ids[-1] != end else []
        self._tokenizer.enable_truncation(self.max_tokens - len(self._last))
        prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
        self._query_prefix = _query_prefix(config, kind, str(prompts.get("query", "")))

    def ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        prefix = self._query_prefix if kind == "query" else ""
        encoded = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        return [one.ids if one.ids[-1:] == self._last else one.ids + self._last for one in encoded]


def _query_prefix(config: EmbeddingConfig, model: str, default: str = "") -> str:
    if "qwen3" in model.lower():
        return f"Instruct: {config.query_instruction or _QWEN3_INSTRUCTION}\nQuery:"
    return default if config.query_instruction is None else config.query_instruction


def _json(path: Path) -> dict[str, Any]:  # Any: JSON
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


class VllmEmbedder:
    """A model held in this process, on "cpu" or "cuda". Blocks; to be called from one thread."""

    def __init__(self, config: EmbeddingConfig, *, device: str) -> None:
        """Load it; raises what `EmbeddingPrompts` raises, or whatever vLLM does when it cannot load a model."""
        self.prompts = EmbeddingPrompts(config)
        from vllm import LLM  # here: it brings torch, and reads the environment when it is loaded

        # On a CPU vLLM would move the worker to a process of its own; this variable is the only way to say no.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        arguments: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
        if device == "cpu":  # as for the reranker: no compiler is needed, and the prefix cache has little to keep
            arguments = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
        arguments |= {
            "model": config.model,
            "revision": config.revision,
            "dtype": config.dtype,
            "runner": "pooling",
            "convert": "embed",
            "max_model_len": self.prompts.max_tokens,
            "max_num_batched_tokens": max(config.max_batch_tokens, self.prompts.max_tokens),
            "distributed_executor_backend": "uni",
            "disable_log_stats": True,
        }
        self._llm: Any = LLM(**arguments | config.vllm_args)  # Any: vllm is untyped here

    def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """Embed texts: shape (texts, dimensions), of length 1 each. A text that is too long is cut at its end."""
        return self.embed_ids(self.prompts.ids(texts, kind))

    def embed_ids(self, prompts: Sequence[list[int]]) -> FloatArray:
        outputs = self._llm.embed([{"prompt_token_ids": ids} for ids in prompts], use_tqdm=False)
        return _unit(np.asarray([one.outputs.embedding for one in outputs], dtype=np.float32))

    def shutdown(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def _unit(vectors: FloatArray) -> FloatArray:
    """Bring vectors to length 1; most models give that already, but for rounding in bfloat16."""
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit


class HttpEmbedder:
    """A model behind an OpenAI-compatible /v1/embeddings, by OpenAI's client. See `Embedder`.

    The client tries again after a time-out, a broken connection, 408, 409, 429 and 5xx, and waits as Retry-After says.
    """

    def __init__(self, config: EmbeddingConfig, secrets: Mapping[str, str], dimensions: int | None = None) -> None:
        """Call nobody yet; `secrets` has the key. Without `dimensions`, the first answer says how many there are."""
        import openai  # here: it takes half a second, and only those with a URL need it

        assert config.url is not None  # noqa: S101 - who calls this has looked; for the type checker
        self._config, self._dimensions, self._failures = config, dimensions, openai.APIError
        url = config.url.rstrip("/").removesuffix("/embeddings")
        self._route = f"{url}/embeddings"
        self._query_prefix = _query_prefix(config, config.model or "")
        self._calls = asyncio.Semaphore(4)  # batches of one build at a time; more would only wait there
        # "EMPTY": vLLM's own word for no key; without one the client would take OPENAI_API_KEY, which is another's.
        key = secrets.get(EMBEDDING_KEY) or "EMPTY"
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=config.timeout_s, max_retries=2)

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """See `Embedder`. What exactly failed is logged."""
        try:
            return await self.call(texts, kind)
        except ConfigurationError as error:
            logger.warning("embedding failed: %s", error)
            raise RetrievalError from None

    async def call(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """Embed texts, in batches; raises ConfigurationError, which says what failed and never quotes a text."""
        prefix, size = self._query_prefix if kind == "query" else "", self._config.max_batch_texts
        batches = [[prefix + text for text in texts[start : start + size]] for start in range(0, len(texts), size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._batch(batch)) for batch in batches]
        except ExceptionGroup as failures:  # several may fail; the caller hears of the first
            raise failures.exceptions[0] from None
        return _unit(np.concatenate([task.result() for task in tasks]))

    async def aclose(self) -> None:
        await self._client.close()

    async def _batch(self, texts: list[str]) -> FloatArray:
        async with self._calls:
            try:
                answer = await self._client.embeddings.create(
                    model=str(self._config.model),
                    input=texts,
                    encoding_format="float",  # the client's default, base64, is not known everywhere
                    extra_body=self._config.request_fields or None,
                )
                rows = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
                vectors: FloatArray = np.asarray(rows, dtype=np.float32)
            except self._failures as error:
                status = getattr(error, "status_code", None)
                reason = f"did not answer ({type(error.__cause__ or error).__name__})"
                if status is not None:  # not its words, which may quote a text
                    reason = f"answered {status}{_REFUSALS.get(status, '')}"
                raise ConfigurationError(f"{self._route} {reason}") from None
            except (AttributeError, TypeError, ValueError):
                raise ConfigurationError(f"{self._route} answered, but not with embeddings") from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise ConfigurationError(f"{self._route} did not answer with one vector for each text")
        self._dimensions = self._dimensions or vectors.shape[1]
        if vectors.shape[1] != self._dimensions:
            said = f"{self._route} gives vectors of {vectors.shape[1]} dimensions, and the index has"
            raise ConfigurationError(f"{said} {self._dimensions}: it was built with another model")
        return vectors


def simulated_vectors(texts: Sequence[str]) -> FloatArray:
    """Hash the words of texts into vectors, shape (texts, 256): texts that share words are near each other."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    vectors[:, 0] = 1e-3  # a text without words has a direction, too
    for vector, text in zip(vectors, texts, strict=True):
        for word in Analyzer().words(text):
            number = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
            vector[number % len(vector)] += 1 if number >> 63 else -1
    return _unit(vectors)
