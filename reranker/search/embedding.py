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
from reranker.search.text import Analyzer
from reranker.search.types import TextKind
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

SIMULATED = "simulated"
"""The name that asks for `SimulatedEmbedder` as an embedding model."""
EMBEDDING_KEY = "RERANKER_EMBEDDING_API_KEY"
"""Environment variable with the key for `search.embedding.url`."""

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
        sentences = _json(self.folder / "config_sentence_transformers.json", missing={}).get("prompts") or {}
        self._query_prefix = _query_prefix(config, str(settings.get("model_type")), str(sentences.get("query", "")))

    def ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        """Give the token ids of each text; one that is too long is cut at its end."""
        prefix = self._query_prefix if kind == "query" else ""
        encoded = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        last = [] if self._last is None else [self._last]
        return [one.ids + last if one.ids[-1:] != last else one.ids for one in encoded]


def _query_prefix(config: EmbeddingConfig, model: str, default: str = "") -> str:
    """What goes before a query, as the model wants it."""
    if "qwen3" in model.lower():
        return f"Instruct: {config.query_instruction or _QWEN3_INSTRUCTION}\nQuery:"
    return default if config.query_instruction is None else config.query_instruction


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
    """A model held in this process. Blocks; to be called from one thread."""

    def __init__(self, config: EmbeddingConfig, *, device: str) -> None:
        """Load the model; returns when it can embed.

        Args:
            config: Which, and how.
            device: "cpu" or "cuda".

        Raises:
            ConfigurationError: The model is not there, or not one we can embed with.
            Exception: Whatever vLLM raises when it cannot load the model.
        """
        self.prompts = EmbeddingPrompts(config)
        self._llm = _load(embedding_args(config, self.prompts, device=device))

    def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """Embed texts: shape (texts, dimensions), of length 1 each. A text that is too long is cut at its end."""
        return self.embed_ids(self.prompts.ids(texts, kind))

    def embed_ids(self, prompts: Sequence[list[int]]) -> FloatArray:
        """Embed prompts: shape (prompts, dimensions), of length 1 each."""
        found = self._llm.embed([{"prompt_token_ids": ids} for ids in prompts], use_tqdm=False)
        return _unit(np.asarray([one.outputs.embedding for one in found], dtype=np.float32))

    def shutdown(self) -> None:
        """Stop vLLM."""
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
    from vllm import LLM  # here: it brings torch, and reads the environment when it is loaded

    # On a CPU vLLM would move the worker to a process of its own; this variable is the only way to say no.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return LLM(**arguments)


def _unit(vectors: FloatArray) -> FloatArray:
    """Bring vectors to length 1; most models give that already, but for rounding in bfloat16."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


class HttpEmbedder:
    """A model behind an OpenAI-compatible /v1/embeddings, by OpenAI's client. See `Embedder`.

    The client tries again after a time-out, a broken connection, 408, 409, 429 and 5xx, and waits as Retry-After says.
    """

    def __init__(self, config: EmbeddingConfig, secrets: Mapping[str, str], dimensions: int | None = None) -> None:
        """Call nobody yet.

        Args:
            config: The model, and its `url`.
            secrets: The environment, with the key.
            dimensions: Of the index that the vectors are for. None: the first answer says.
        """
        import openai  # here: it takes half a second, and only those with a URL need it

        assert config.url is not None  # noqa: S101 - who calls this has looked; for the type checker
        self._config, self._dimensions, self._failures = config, dimensions, openai.APIError
        self._url = config.url.rstrip("/").removesuffix("/embeddings")
        self._query_prefix = _query_prefix(config, config.model or "")
        self._calls = asyncio.Semaphore(4)  # batches of one build at a time; more would only wait there
        # "EMPTY": vLLM's own word for no key; without one the client would take OPENAI_API_KEY, which is another's.
        key = secrets.get(EMBEDDING_KEY) or "EMPTY"
        self._client = openai.AsyncOpenAI(base_url=self._url, api_key=key, timeout=config.timeout_s, max_retries=2)

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
        """Close the connections."""
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
                raise ConfigurationError(f"{self._url}/embeddings {_reason(error)}") from None
            except (AttributeError, TypeError, ValueError):
                raise ConfigurationError(f"{self._url}/embeddings answered, but not with embeddings") from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise ConfigurationError(f"{self._url}/embeddings did not answer with one vector for each text")
        if self._dimensions is None:
            self._dimensions = vectors.shape[1]
        if vectors.shape[1] != self._dimensions:
            said = f"{self._url}/embeddings gives vectors of {vectors.shape[1]} dimensions, and the index has"
            raise ConfigurationError(f"{said} {self._dimensions}: it was built with another model")
        return vectors


def _reason(error: Any) -> str:  # Any: an error of OpenAI's client, which is imported only where it is needed
    """Say what went wrong, in words that quote no text."""
    status = getattr(error, "status_code", None)
    if status is None:
        return f"did not answer ({type(error.__cause__ or error).__name__})"
    if status in (401, 403):
        return f"answered {status}: the key in {EMBEDDING_KEY} is missing or wrong"
    if status == 404:
        return "answered 404: there is no such path or no such model"
    if status in (400, 413, 422):
        return (
            f"answered {status}: a text may be too long, a batch too large (search.embedding.max_batch_texts), "
            "or the model another one"
        )
    return f"answered {status}"


class SimulatedEmbedder:
    """A double of an embedding model: words, hashed into a vector. Texts that share words are near each other."""

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """See `Embedder`."""
        return simulated_vectors(texts)


def simulated_vectors(texts: Sequence[str]) -> FloatArray:
    """Hash the words of texts: shape (texts, 256)."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    vectors[:, 0] = 1e-3  # a text without words has a direction, too
    for vector, text in zip(vectors, texts, strict=True):
        for word in Analyzer().words(text):
            number = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
            vector[number % len(vector)] += 1 if number >> 63 else -1
    return _unit(vectors)
