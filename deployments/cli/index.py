"""`reranker index …`: build an index of files, add files to one, and say what is in it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from deployments.cli import Subparsers
from deployments.cli.config import machine_cores
from reranker.config import EmbeddingConfig, EngineConfig
from reranker.engine.device import device_for
from reranker.engine.vllm import environment
from reranker.errors import ConfigurationError
from reranker.search import documents
from reranker.search.build import LEFT_OUT, Build, BuildResult, Embed
from reranker.search.documents import ChunkSize, Ideographs
from reranker.search.embedding import SIMULATED, HttpEmbedder, VllmEmbedder, simulated_vectors
from reranker.search.first_stages import check_integrity
from reranker.search.index import EmbeddingInfo, IndexFolder, IndexInfo, IndexReader

_EMBEDDING_TIMEOUT_S = 120
"""For one call of an embedding URL: a build may wait longer than a search."""
_SHOWN_PROBLEMS = 20
_SETTINGS: tuple[tuple[str, str, str | int | None, str], ...] = (
    ("--chunk-tokens", "N", ChunkSize().tokens, "(%(default)s)"),
    ("--overlap-tokens", "N", ChunkSize().overlap, "tokens that neighbouring chunks share (%(default)s)"),
    ("--tokenizer", "MODEL", None, "counts the tokens; default: the embedding model's, or the demo model's"),
    ("--title-field", "NAME", "title", "field with the title (%(default)s)"),
    ("--stemmer", "LANGUAGE", "english", "Snowball's name of one, or none (%(default)s)"),
    ("--embedding", "MODEL", None, "for dense search: a local folder or a hub id; loaded here, best on a GPU"),
    ("--embedding-url", "URL", None, "an OpenAI-compatible endpoint that has that model: http://host:8000/v1"),
    ("--embedding-revision", "REVISION", None, "branch, tag or commit on the hub"),
    ("--faiss", "FACTORY", "Flat", "FAISS's description of its index; Flat is exact (%(default)s)"),
)
"""Options of a build: name, metavar, default, help."""
_IDEOGRAPHS: dict[str, Ideographs | None] = {"auto": None, "words": "words", "pairs": "pairs"}


def add_parser(commands: Subparsers) -> None:
    """Declare the commands."""
    parser = commands.add_parser("index", help="make and look at an index of documents, for POST /v1/search")
    inner = parser.add_subparsers(dest="what", required=True)
    build = inner.add_parser(
        "build",
        help="index files",
        description="Index files and folders. An index that is there already is served until the new one is whole; "
        "interrupted, the same command goes on where it was.",
    )
    add = inner.add_parser(
        "add", help="add files to an index, with its settings; a document of the same id takes the old one's place"
    )
    add.add_argument("index", type=Path, metavar="INDEX")
    for command, run in ((build, _build), (add, _add)):
        files = f"a folder, or a file: {', '.join(documents.SUFFIXES)}"
        command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=files)
        command.set_defaults(run=run)
    build.add_argument("--out", dest="index", type=Path, required=True, metavar="INDEX", help="the index's folder")
    build.add_argument("--text-field", action="append", metavar="NAME", help="field with the text; repeatable (text)")
    said = "split Chinese characters into words (jieba) or pairs; auto: pairs if the documents are Japanese"
    build.add_argument("--chinese", choices=_IDEOGRAPHS, default="auto", help=said)
    for option, metavar, default, said in _SETTINGS:
        kind = int if isinstance(default, int) else str
        build.add_argument(option, metavar=metavar, default=default, type=kind, help=said)
    info = inner.add_parser("info", help="say what is in an index")
    info.add_argument("index", type=Path, metavar="INDEX")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.add_argument("--verify", action="store_true", help="read it all, and compare its parts with each other")
    info.set_defaults(run=_info)


def _build(parsed: argparse.Namespace) -> int:
    embedding, tokenizer = None, "demo"
    if parsed.embedding_url is not None and parsed.embedding is None:
        raise ConfigurationError("--embedding-url needs --embedding: the name of the model there")
    if parsed.embedding is not None:
        model = str(Path(parsed.embedding).resolve()) if Path(parsed.embedding).is_dir() else parsed.embedding
        embedding = EmbeddingInfo(
            model=model, revision=parsed.embedding_revision, url=parsed.embedding_url, factory=parsed.faiss
        )
        if embedding.url is None and model != SIMULATED:
            tokenizer = model
    info = IndexInfo(
        tokenizer=parsed.tokenizer or tokenizer,
        chunking=ChunkSize(parsed.chunk_tokens, parsed.overlap_tokens),
        words=documents.Analyzer(documents.require_stemmer(parsed.stemmer)),
        fields=documents.TextFields(tuple(parsed.text_field or ("text",)), parsed.title_field),
        embedding=embedding,
    )
    return _run(parsed, info, ideographs=_IDEOGRAPHS[parsed.chinese])


def _add(parsed: argparse.Namespace) -> int:
    return _run(parsed, IndexInfo.read(IndexFolder(parsed.index).current()), add=True)


def _run(
    parsed: argparse.Namespace, info: IndexInfo, *, add: bool = False, ideographs: Ideographs | None = None
) -> int:
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: other commands need not wait for its import

    folder = IndexFolder(parsed.index)
    sources = documents.find_sources(parsed.paths, without=parsed.index)
    size_bytes, quiet = sum(one.size_bytes for one in sources), not sys.stderr.isatty()
    try:
        with folder.locked(), open_embedder(info.embedding) as embed:
            build = Build(folder, sources, info, add=add, ideographs=ideographs, embed=embed)
            with tqdm(
                total=size_bytes, initial=build.done_bytes, unit="B", unit_scale=True, disable=quiet, leave=False
            ) as bar:
                result = build.run(lambda done_bytes: bar.update(done_bytes - bar.n))
    except KeyboardInterrupt:
        raise ConfigurationError("stopped; the same command goes on where it was") from None
    except OSError as error:
        raise ConfigurationError(f"{error.filename or parsed.index}: {error.strerror}") from None
    except sqlite3.Error as error:  # a full disk, for one
        raise ConfigurationError(f"{parsed.index}: {error}") from None
    _report(parsed.index, result)
    return 0


@contextlib.contextmanager
def open_embedder(info: EmbeddingInfo | None) -> Iterator[Embed | None]:
    """Give what embeds documents, for as long as the block lasts: a URL, or a model loaded in this process."""
    if info is None or info.model == SIMULATED:
        yield simulated_vectors if info else None
        return
    config = EmbeddingConfig(model=info.model, revision=info.revision, url=info.url, timeout_s=_EMBEDDING_TIMEOUT_S)
    if config.url is not None:
        with asyncio.Runner() as runner:
            remote = HttpEmbedder(config, os.environ, info.dimensions or None)
            try:
                yield lambda texts: runner.run(remote.call(texts, "document"))
            finally:
                runner.run(remote.aclose())
        return
    print(f"Loading {config.model} …", file=sys.stderr, flush=True)
    os.environ.update(environment(machine_cores()) | dict(os.environ))
    embedder = VllmEmbedder(config, device=device_for(EngineConfig(), config.dtype))
    try:
        yield lambda texts: embedder.embed(texts, "document")
    finally:
        embedder.shutdown()


def _report(index: Path, result: BuildResult) -> None:
    for reject in result.rejects[:_SHOWN_PROBLEMS]:
        print(f"left out: {reject}", file=sys.stderr)
    more = len(result.rejects) - _SHOWN_PROBLEMS
    if more > 0:
        print(f"left out: {more} more, all in {result.version / LEFT_OUT}", file=sys.stderr)
    said = f"{index}: {result.info.documents} documents in {result.info.chunks} chunks"
    said += f"; {len(result.rejects)} left out" if result.rejects else ""
    print(said + ("; an interrupted build was finished" if result.resumed else ""))


def _info(parsed: argparse.Namespace) -> int:
    folder = IndexFolder(parsed.index)
    version = folder.current()
    info = IndexInfo.read(version)
    if parsed.verify:
        check_integrity(IndexReader(version))
    if parsed.json:
        print(info.model_dump_json())
        return 0
    size_mib = sum(one.stat().st_size for one in version.rglob("*") if one.is_file()) / 2**20
    interrupted = "an interrupted build; the same command goes on with it"
    lines = {
        "version": f"{version.name}, built {info.built_at}",
        "documents": f"{info.documents} in {info.chunks} chunks of at most {info.chunking.tokens} tokens",
        "left out": f"{info.left_out} ({version / LEFT_OUT})" if info.left_out else "nothing",
        "words": f"stemmer {info.words.stemmer}; Chinese characters as {info.words.ideographs}",
        "vectors": f"{info.embedding.dimensions} dimensions, {info.embedding.model}" if info.embedding else "none",
        "size": f"{size_mib:.1f} MiB",
        "under way": interrupted if folder.building.is_dir() else "nothing",
    }
    if parsed.verify:
        lines["verified"] = "all its parts agree"
    for name, value in lines.items():
        print(f"{name:<10} {value}")
    return 0
