"""Settings of search: which indexes there are, their first stages, and the embedding model of dense search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from reranker.config.model import Group

Stage: TypeAlias = Literal["bm25", "dense", "hybrid", "milvus"]
"""A first stage, as requests and answers name it."""
IndexName: TypeAlias = Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]


class MilvusConfig(Group):
    """A collection in a Milvus that is there already.

    Its token, or "user:password", is RERANKER_MILVUS_TOKEN in the environment, never here.
    """

    uri: str = Field(min_length=1)
    """http://host:19530, or a file for Milvus Lite."""
    collection: str = Field(min_length=1)
    """Its name."""
    database: str = ""
    """Empty: the default one."""
    id_field: str = "id"
    """Field with what an answer gives as `id`."""
    text_field: str = "text"
    """Field with the text that is ranked."""
    title_field: str | None = None
    """Field with a title, that goes before the text."""
    vector_field: str | None = "vector"
    """Field with vectors of the embedding model (`search.embedding.model`). None: there is none."""
    words_field: str | None = None
    """Sparse field of Milvus' own BM25 function, searched with the query's text. Both fields' results are fused."""
    timeout_s: PositiveFloat = 10
    """Seconds that Milvus has for one search."""

    @model_validator(mode="after")
    def _has_a_field_to_search(self) -> Self:
        if self.vector_field is None and self.words_field is None:
            raise ValueError("give vector_field, words_field or both: without one there is nothing to search")
        return self


class SearchIndexConfig(Group):
    """One index that requests can name. It has either a `path` or a `milvus`."""

    path: Path | None = None
    """Folder of an index that `reranker index build` made; on every machine where a search replica may run."""
    milvus: MilvusConfig | None = None
    """An existing Milvus instead."""
    first_stage: Stage | None = None
    """Finds the candidates, unless a request says: "bm25", "dense", "hybrid" (of an index on disk), "milvus". None:
    "hybrid" if the index has vectors, else "bm25"."""
    candidates: PositiveInt | None = None
    """How many are reranked, unless a request says. None: `search.candidates`."""
    instruction: str | None = None
    """For requests that bring none: a text, or a name ("@medical"). None: `model.instruction`."""
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Leave out documents with a lower relevance score, unless a request says."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.milvus is None):
            raise ValueError("an index has either a path or a milvus")
        if self.first_stage is not None and (self.first_stage == "milvus") != (self.milvus is not None):
            raise ValueError('first_stage "milvus" is for an index with milvus, the others for one with path')
        return self


class EmbeddingConfig(Group):
    """The embedding model of dense search: behind an OpenAI-compatible `url`, or a vLLM engine in `EmbeddingReplica`.

    The key for `url` is RERANKER_EMBEDDING_API_KEY in the environment, never here.
    """

    model: str | None = None
    """A local folder or a hub id such as Qwen/Qwen3-Embedding-0.6B: the one that the indexes were built with. With
    `url`, the name that is sent there. "simulated": words hashed into vectors, for tests. None: no dense search."""
    url: str | None = None
    """An OpenAI-compatible endpoint (vLLM, TEI, …) that embeds the queries: http://host:8000/v1, or with /embeddings at
    its end. None: `EmbeddingReplica` loads the model."""
    timeout_s: PositiveFloat = 10
    """Seconds that `url` has for one call; two more calls are tried after a failure that may pass."""
    max_batch_texts: PositiveInt = 32
    """Texts in one call of `url`, at most. TEI takes 32."""
    request_fields: dict[str, Any] = Field(default_factory=dict)  # Any: JSON
    """What else is sent to `url` with each call: {truncate_prompt_tokens: -1} has vLLM cut a text that is too long."""
    revision: str | None = None
    """Branch, tag or commit on the hub. None: the default branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": what the checkpoint says."""
    query_instruction: str | None = None
    """What a query is for; it goes before the query as the model wants it (`Instruct: …\nQuery: …`). None: for Qwen3
    the model card's web search, for others the prompt named "query" in their own configuration, or nothing."""
    max_tokens: PositiveInt = 8_192
    """Tokens of a text; a longer one is cut at its end. Never more than the model's own limit."""
    max_batch_tokens: PositiveInt = 8_192
    """Tokens computed in one step."""
    gpus: PositiveFloat = 1
    """GPUs that Ray reserves for one replica, where there are any; 0.5 shares one with another deployment."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory vLLM may take; lower it for a GPU that is shared."""
    cpus: PositiveFloat = 1
    """Cores that Ray reserves for one replica."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # Any: vLLM's arguments have every type
    """Any other vLLM engine argument, by its name; it wins over ours."""

    @field_validator("url")
    @classmethod
    def _url_can_be_called(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be like http://host:8000/v1")
        if parts.username is not None:
            raise ValueError("holds no key or password: give RERANKER_EMBEDDING_API_KEY in the environment")
        return url

    @model_validator(mode="after")
    def _url_has_a_model(self) -> Self:
        if self.url is not None and self.model is None:
            raise ValueError("url needs model: the name of the model there")
        return self


class SearchConfig(Group):
    """Search ([docs/search.md](search.md)): off, unless there is an index."""

    indexes: dict[IndexName, SearchIndexConfig] = Field(default_factory=dict)
    """The indexes, by the names that requests give; the first is the default. Keys of each: below."""
    candidates: PositiveInt = 100
    """Candidates that the first stage finds and the reranker ranks, unless request or index says."""
    max_candidates: PositiveInt = 1_000
    """Candidates a request may ask for, at most."""
    cpus: NonNegativeFloat = 0
    """Cores that Ray reserves for one search replica, which holds the indexes. 0: it shares what there is."""
    embedding: EmbeddingConfig = EmbeddingConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        asked = max([self.candidates, *(one.candidates or 0 for one in self.indexes.values())])
        if asked > self.max_candidates:
            raise ValueError("candidates must not exceed max_candidates")
        for name, one in self.indexes.items():
            embeds = one.first_stage in ("dense", "hybrid") or (one.milvus is not None and one.milvus.vector_field)
            if embeds and self.embedding.model is None:
                raise ValueError(f"index {name} needs embedding.model, which its vectors come from")
        return self
