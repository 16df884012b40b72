"""`reranker index …`: build an index of files, add files to one, and say what is in it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deployments.cli import Subparsers, rankers
from reranker.config import EmbeddingConfig
from reranker.errors import ConfigurationError
from reranker.search.build import LEFT_OUT, Build, BuildResult, Embed
from reranker.search.embedding import SIMULATED, HttpEmbedder, VllmEmbedder, simulated_vectors
from reranker.search.first_stages import check_integrity
from reranker.search.index import EmbeddingInfo, IndexFolder, IndexInfo, IndexReader
from reranker.search.sources import SUFFIXES, TextFields, find_sources
from reranker.search.text import Analyzer, ChunkSize, Ideographs, require_stemmer

_EMBEDDING_TIMEOUT_S = 120
"""For one call of an embedding URL: a build may wait longer than a search."""
_SHOWN_PROBLEMS = 20
_IDEOGRAPHS: dict[str, Ideographs | None] = {"auto": None, "words": "words", "pairs": "pairs"}


def add_parser(commands: Subparsers) -> None:
    """Declare the commands."""
    parser = commands.add_parser("index", help="make and look at an index of documents, for POST /v1/search")
    inner = parser.add_subparsers(dest="what", required=True)
    kinds = ", ".join(SUFFIXES)
    build = inner.add_parser(
        "build",
        help="index files",
        description="Index files and folders. An index that is there already is served until the new one is whole; "
        "interrupted, the same command goes on where it was.",
    )
    build.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=f"a folder, or a file: {kinds}")
    build.add_argument("--out", type=Path, required=True, metavar="INDEX", help="the index's folder")
    defaults = ChunkSize()
    build.add_argument("--chunk-tokens", type=int, default=defaults.tokens, metavar="N", help="(%(default)s)")
    build.add_argument(
        "--overlap-tokens",
        type=int,
        default=defaults.overlap,
        metavar="N",
        help="tokens that neighbouring chunks share (%(default)s)",
    )
    build.add_argument(
        "--tokenizer", metavar="MODEL", help="counts the tokens; default: the embedding model's, or the demo model's"
    )
    build.add_argument("--text-field", action="append", metavar="NAME", help="field with the text; repeatable (text)")
    build.add_argument("--title-field", default="title", metavar="NAME", help="field with the title (%(default)s)")
    build.add_argument(
        "--stemmer", default="english", metavar="LANGUAGE", help="Snowball's name of one, or none (%(default)s)"
    )
    build.add_argument(
        "--chinese",
        choices=_IDEOGRAPHS,
        default="auto",
        help="split Chinese characters into words (jieba) or pairs; auto: pairs if the documents are Japanese",
    )
    build.add_argument(
        "--embedding", metavar="MODEL", help="for dense search: a local folder or a hub id; loaded here, best on a GPU"
    )
    build.add_argument(
        "--embedding-url",
        metavar="URL",
        help="an OpenAI-compatible endpoint that has that model, such as http://host:8000/v1; nothing is loaded here",
    )
    build.add_argument("--embedding-revision", metavar="REVISION", help="branch, tag or commit on the hub")
    build.add_argument(
        "--faiss",
        default="Flat",
        metavar="FACTORY",
        help="FAISS's description of its index; Flat is exact (%(default)s)",
    )
    build.set_defaults(run=_build)
    add = inner.add_parser(
        "add", help="add files to an index, with its settings; a document of the same id takes the old one's place"
    )
    add.add_argument("index", type=Path, metavar="INDEX")
    add.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=f"a folder, or a file: {kinds}")
    add.set_defaults(run=_add)
    info = inner.add_parser("info", help="say what is in an index")
    info.add_argument("index", type=Path, metavar="INDEX")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.add_argument("--verify", action="store_true", help="read it all, and compare its parts with each other")
    info.set_defaults(run=_info)


def _build(parsed: argparse.Namespace) -> int:
    embedding = None
    if parsed.embedding_url is not None and parsed.embedding is None:
        raise ConfigurationError("--embedding-url needs --embedding: the name of the model there")
    if parsed.embedding is not None:
        model = str(Path(parsed.embedding).resolve()) if Path(parsed.embedding).is_dir() else parsed.embedding
        embedding = EmbeddingInfo(
            model=model, revision=parsed.embedding_revision, url=parsed.embedding_url, factory=parsed.faiss
        )
    info = IndexInfo(
        tokenizer=parsed.tokenizer or _tokenizer(embedding),
        chunking=ChunkSize(parsed.chunk_tokens, parsed.overlap_tokens),
        words=Analyzer(require_stemmer(parsed.stemmer)),
        fields=TextFields(tuple(parsed.text_field or ("text",)), parsed.title_field),
        embedding=embedding,
    )
    return _run(parsed.out, parsed.paths, info, ideographs=_IDEOGRAPHS[parsed.chinese])


def _add(parsed: argparse.Namespace) -> int:
    info = IndexInfo.read(IndexFolder(parsed.index).current())
    return _run(parsed.index, parsed.paths, info, add=True)


def _run(
    index: Path,
    paths: Sequence[Path],
    info: IndexInfo,
    *,
    add: bool = False,
    ideographs: Ideographs | None = None,
) -> int:
    folder = IndexFolder(index)
    sources = find_sources(paths, without=index)
    try:
        with folder.locked(), _embedding(info.embedding) as embed:
            build = Build(folder, sources, info, add=add, ideographs=ideographs, embed=embed)
            total = sum(one.size_bytes for one in sources)
            with _progress(total, build.done_bytes) as bar:
                built = build.run(bar)
    except KeyboardInterrupt:
        raise ConfigurationError("stopped; the same command goes on where it was") from None
    except OSError as error:
        raise ConfigurationError(f"{error.filename or index}: {error.strerror}") from None
    _report(index, built)
    return 0


@contextlib.contextmanager
def _embedding(info: EmbeddingInfo | None) -> Iterator[Embed | None]:
    if info is None:
        yield None
        return
    config = EmbeddingConfig(model=info.model, revision=info.revision, url=info.url, timeout_s=_EMBEDDING_TIMEOUT_S)
    with open_embedder(config, info.dimensions or None) as embed:
        yield embed


def _tokenizer(embedding: EmbeddingInfo | None) -> str:
    """The model whose tokenizer counts tokens, if no other is asked for: the embedding model, if it is at hand."""
    return embedding.model if embedding and embedding.url is None and embedding.model != SIMULATED else "demo"


@contextlib.contextmanager
def open_embedder(config: EmbeddingConfig, dimensions: int | None = None) -> Iterator[Embed]:
    """Give what embeds documents, for as long as the block lasts: a URL, or a model loaded in this process.

    Args:
        config: Which model.
        dimensions: Of the vectors that are there already; others are refused. None: there are none.

    Raises:
        ConfigurationError: The model is not there, or not one we can embed with.
        Exception: Whatever vLLM raises when it cannot load the model.
    """
    if config.model == SIMULATED:
        yield simulated_vectors
        return
    if config.url is not None:
        with asyncio.Runner() as runner:
            remote = HttpEmbedder(config, os.environ, dimensions)
            try:
                yield lambda texts: runner.run(remote.call(texts, "document"))
            finally:
                runner.run(remote.aclose())
        return
    print(f"Loading {config.model} …", file=sys.stderr, flush=True)
    rankers.prepare_environment(os.cpu_count() or 1)
    embedder = VllmEmbedder(config, device=rankers.device())
    try:
        yield lambda texts: embedder.embed(texts, "document")
    finally:
        embedder.shutdown()


@contextlib.contextmanager
def _progress(total_bytes: int, done_bytes: int) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: other commands need not wait for its import

    with tqdm(
        total=total_bytes, initial=done_bytes, unit="B", unit_scale=True, disable=not sys.stderr.isatty(), leave=False
    ) as bar:
        yield bar.update


def _report(index: Path, built: BuildResult) -> None:
    for reject in built.rejects[:_SHOWN_PROBLEMS]:
        print(f"left out: {reject}", file=sys.stderr)
    more = len(built.rejects) - _SHOWN_PROBLEMS
    if more > 0:
        print(f"left out: {more} more, all in {built.version / LEFT_OUT}", file=sys.stderr)
    info = built.info
    print(
        f"{index}: {info.documents} documents in {info.chunks} chunks"
        + (f"; {len(built.rejects)} left out" if built.rejects else "")
        + ("; an interrupted build was finished" if built.resumed else "")
    )


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
    vectors = "none" if info.embedding is None else f"{info.embedding.dimensions} dimensions, {info.embedding.model}"
    for name, value in {
        "version": f"{version.name}, built {info.built_at}",
        "documents": f"{info.documents} in {info.chunks} chunks of at most {info.chunking.tokens} tokens",
        "left out": f"{info.left_out} ({version / LEFT_OUT})" if info.left_out else "nothing",
        "words": f"stemmer {info.words.stemmer}; Chinese characters as {info.words.ideographs}",
        "vectors": vectors,
        "size": f"{size_mib:.1f} MiB",
        "under way": "an interrupted build; the same command goes on with it"
        if folder.building.is_dir()
        else "nothing",
    }.items():
        print(f"{name:<10} {value}")
    if parsed.verify:
        print("verified   all its parts agree")
    return 0
