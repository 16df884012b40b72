"""An index is made whole or not at all, an interrupted build goes on where it was, and what it holds is found."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reranker.errors import ConfigurationError
from reranker.search.build import Build, BuildResult
from reranker.search.documents import Chunk, ChunkSize, find_sources
from reranker.search.embedding import SIMULATED, simulated_vectors
from reranker.search.filters import read_filter
from reranker.search.first_stages import Candidate, best_rows, check_integrity, first_stages, fuse
from reranker.search.index import EmbeddingInfo, IndexFolder, IndexInfo, IndexReader
from reranker.types import FloatArray
from tests.indexes import SimulatedEmbedder

GOLDEN = Path(__file__).parents[1] / "golden" / "index"
WITH_VECTORS = IndexInfo(embedding=EmbeddingInfo(model=SIMULATED))
TEXTS = {
    "git": "A merge joins two branches; a rebase rewrites commits.",
    "beijing": "The capital of China is Beijing.",
    "zh": "清初政治家魏裔介，直隶柏乡县人。",
    "whale": "A captain hunts a white whale over the seas.",
}


class Embed:
    """Embeds as `SimulatedEmbedder` does, and fails at the given call."""

    def __init__(self, fails_at: int = 0) -> None:
        self.calls, self._fails_at = 0, fails_at

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        self.calls += 1
        if self.calls == self._fails_at:
            raise KeyboardInterrupt
        return simulated_vectors(texts)


def _lines(path: Path, texts: dict[str, str], **metadata: object) -> Path:
    path.write_text("".join(json.dumps({"id": key, "text": text, **metadata}) + "\n" for key, text in texts.items()))
    return path


def _build(
    index: Path, *paths: Path, info: IndexInfo = WITH_VECTORS, add: bool = False, embed: Embed | None = None
) -> BuildResult:
    folder = IndexFolder(index)
    with folder.locked():
        embed = (embed or Embed()) if info.embedding else None
        return Build(folder, find_sources(paths), info, add=add, embed=embed).run()


def _open(index: Path) -> IndexReader:
    opened = IndexReader(IndexFolder(index).current())
    check_integrity(opened)
    return opened


def _info(index: Path) -> IndexInfo:
    return IndexInfo.read(IndexFolder(index).current())


def _ids(found: Sequence[Candidate]) -> list[str]:
    return [one.chunk.id for one in found]


@pytest.mark.parametrize("stage", ["bm25", "dense", "hybrid"])
async def test_first_stages_find_a_document_by_its_words(tmp_path: Path, stage: str) -> None:
    await asyncio.to_thread(_build, tmp_path / "idx", _lines(tmp_path / "a.jsonl", TEXTS))
    first_stage = first_stages(_open(tmp_path / "idx"), SimulatedEmbedder())[stage]
    for query, wanted in (("capital of China", "beijing"), ("merged branches", "git"), ("政治家", "zh")):
        found = await first_stage.search(query, 2)
        assert _ids(found)[0] == wanted
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize("stage", ["bm25", "dense", "hybrid"])
async def test_a_filter_leaves_the_best_of_what_it_lets_through(tmp_path: Path, stage: str) -> None:
    """Filtering after the search would leave fewer than there are."""
    many = {f"n{number}": f"whale {number}" for number in range(50)}
    one = _lines(tmp_path / "a.jsonl", many, lang="en")
    other = _lines(tmp_path / "b.jsonl", {f"o{key}": text for key, text in many.items()}, lang="de")
    await asyncio.to_thread(_build, tmp_path / "idx", one, other)
    first_stage = first_stages(_open(tmp_path / "idx"), SimulatedEmbedder())[stage]
    found = await first_stage.search("whale", 20, read_filter({"lang": "de"}))
    assert len(found) == 20
    assert {one.chunk.metadata["lang"] for one in found} == {"de"}
    assert await first_stage.search("whale", 20, read_filter({"lang": "fr"})) == []


async def test_only_stop_words_find_something_too(tmp_path: Path) -> None:
    texts = TEXTS | {"who": "The Who were there before"}
    await asyncio.to_thread(_build, tmp_path / "idx", _lines(tmp_path / "a.jsonl", texts), info=IndexInfo())
    bm25 = first_stages(_open(tmp_path / "idx"), None)["bm25"]
    assert _ids(await bm25.search("the who", 1)) == ["who"]
    assert await bm25.search("nowhere …", 5) == []


def test_fusion_prefers_what_both_found() -> None:
    def ranking(*ids: str) -> list[Candidate]:
        return [Candidate(Chunk(one, 0, one), 1.0) for one in ids]

    assert _ids(fuse([ranking("a", "b"), ranking("c", "b")])) == ["b", "a", "c"]
    assert fuse([ranking("a"), ranking("a")])[0].score == pytest.approx(2 / 61)


def test_index_without_vectors_has_bm25_only(tmp_path: Path) -> None:
    _build(tmp_path / "idx", _lines(tmp_path / "a.jsonl", TEXTS), info=IndexInfo())
    assert list(first_stages(_open(tmp_path / "idx"), SimulatedEmbedder())) == ["bm25"]


def test_interrupted_build_leaves_the_old_index_and_goes_on(tmp_path: Path) -> None:
    index = tmp_path / "idx"
    _build(index, _lines(tmp_path / "old.jsonl", TEXTS))
    new = _lines(tmp_path / "new.jsonl", {f"d{number}": f"document {number}" for number in range(300)})
    with pytest.raises(KeyboardInterrupt):
        _build(index, new, embed=Embed(fails_at=4))
    assert set(_ids([Candidate(chunk, 0) for chunk in _open(index).chunks])) == set(TEXTS)

    embed = Embed()
    built = _build(index, new, embed=embed)
    assert built.resumed
    assert embed.calls == 2  # of five parts three were there
    assert [chunk.id for chunk in _open(index).chunks] == [f"d{number}" for number in range(300)]
    assert not IndexFolder(index).building.exists()


@pytest.mark.parametrize("changed", ["source", "settings"])
def test_a_changed_build_starts_over(tmp_path: Path, changed: str) -> None:
    new = _lines(tmp_path / "new.jsonl", {f"d{number}": f"document {number}" for number in range(300)})
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "idx", new, embed=Embed(fails_at=4))
    info = WITH_VECTORS
    if changed == "source":
        _lines(new, {f"e{number}": "another text" for number in range(300)})
    else:
        info = info.model_copy(update={"chunking": ChunkSize(100, 10)})
    built = _build(tmp_path / "idx", new, info=info)
    assert not built.resumed
    assert built.info.documents == 300


def test_a_version_that_was_named_but_never_served_is_dropped(tmp_path: Path) -> None:
    """Killed between the two steps by which a version takes effect."""
    index, lines = tmp_path / "idx", _lines(tmp_path / "a.jsonl", TEXTS)
    _build(index, lines)
    (index / "versions" / "000002").mkdir()
    (index / "versions" / "000002" / "half").write_text("")
    assert _build(index, lines).version.name == "000002"
    _open(index)


def test_added_documents_take_the_place_of_those_with_their_id(tmp_path: Path) -> None:
    index = tmp_path / "idx"
    _build(index, _lines(tmp_path / "a.jsonl", TEXTS))
    info = IndexInfo.read(IndexFolder(index).current())
    _build(index, _lines(tmp_path / "b.jsonl", {"whale": "Now about cats.", "new": "new one"}), info=info, add=True)
    opened = _open(index)
    texts = {chunk.id: chunk.text for chunk in opened.chunks}
    assert texts == TEXTS | {"whale": "Now about cats.", "new": "new one"}
    found = asyncio.run(first_stages(opened, SimulatedEmbedder())["dense"].search("cats", 1))
    assert _ids(found) == ["whale"]


def test_the_second_of_two_documents_with_one_id_is_left_out_and_said(tmp_path: Path) -> None:
    one, two = _lines(tmp_path / "a.jsonl", TEXTS), _lines(tmp_path / "b.jsonl", {"git": "again"})
    built = _build(tmp_path / "idx", one, two)
    assert [str(reject) for reject in built.rejects] == [f"{two}:1: has the id 'git' a second time; the first is kept"]
    assert built.info.left_out == 1


def test_nothing_to_index_replaces_nothing(tmp_path: Path) -> None:
    index = tmp_path / "idx"
    _build(index, _lines(tmp_path / "a.jsonl", TEXTS))
    (tmp_path / "b.jsonl").write_text("no json\n")
    with pytest.raises(ConfigurationError, match=r"not one document.*b\.jsonl:1: is not JSON"):
        _build(index, tmp_path / "b.jsonl")
    assert len(_open(index).chunks) == len(TEXTS)


def test_two_builds_of_one_index_at_once_are_refused(tmp_path: Path) -> None:
    with (
        IndexFolder(tmp_path / "idx").locked(),
        pytest.raises(ConfigurationError, match="another build"),
        IndexFolder(tmp_path / "idx").locked(),
    ):
        pass


def test_no_index_and_a_damaged_one_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="reranker index build"):
        IndexFolder(tmp_path).current()
    version = _build(tmp_path / "idx", _lines(tmp_path / "a.jsonl", TEXTS)).version
    with (version / "chunks.jsonl").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigurationError, match="not as many bytes"):
        IndexReader(version)
    (version / "index.json").write_text("{}x")
    with pytest.raises(ConfigurationError, match=r"index\.json"):
        IndexReader(version)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF4,Flat", "SQ8"])
async def test_other_indexes_of_faiss_filter_too(tmp_path: Path, factory: str) -> None:
    many = {f"n{number}": f"number{number} whale" for number in range(400)}
    info = IndexInfo(embedding=EmbeddingInfo(model=SIMULATED, factory=factory))
    one = _lines(tmp_path / "a.jsonl", many, lang="en")
    other = _lines(tmp_path / "b.jsonl", {f"o{key}": text for key, text in many.items()}, lang="de")
    await asyncio.to_thread(_build, tmp_path / "idx", one, other, info=info)
    dense = first_stages(_open(tmp_path / "idx"), SimulatedEmbedder())["dense"]
    found = await dense.search("number7 whale", 5, read_filter({"lang": "de"}))
    assert len(found) == 5
    assert {one.chunk.metadata["lang"] for one in found} == {"de"}


def test_an_index_that_faiss_does_not_know_is_refused(tmp_path: Path) -> None:
    info = IndexInfo(embedding=EmbeddingInfo(model=SIMULATED, factory="Nonsense"))
    with pytest.raises(ConfigurationError, match="FAISS cannot make 'Nonsense'"):
        _build(tmp_path / "idx", _lines(tmp_path / "a.jsonl", TEXTS), info=info)


async def test_index_that_an_earlier_release_built_is_searched_and_added_to(tmp_path: Path) -> None:
    """`tests/golden/index` is of `tests.indexes.DOCUMENTS`, built before embedding models could be behind a URL."""
    index = tmp_path / "index"
    shutil.copytree(GOLDEN, index)
    stages = first_stages(_open(index), SimulatedEmbedder())
    for name in ("bm25", "dense", "hybrid"):
        assert _ids(await stages[name].search("captain hunts", 1)) == ["whale"]
    await asyncio.to_thread(_build, index, _lines(tmp_path / "b.jsonl", {"new": "ducks"}), info=_info(index), add=True)
    assert _ids(await first_stages(_open(index), SimulatedEmbedder())["hybrid"].search("ducks", 1)) == ["new"]
    assert _info(index).left_out == 1


def test_index_of_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "index")
    file = tmp_path / "index" / "versions" / "000001" / "index.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ConfigurationError, match="of format 2, and this release reads 1; build the index again"):
        _open(tmp_path / "index")


def test_best_rows_are_those_above_0_and_equal_ones_stay_in_order() -> None:
    scores = np.asarray([0, 2, 1, 2, 0, 1, 3, 1], dtype=np.float32)
    assert best_rows(scores, 3) == [6, 1, 3]
    assert best_rows(scores, 5) == [6, 1, 3, 2, 5]
    assert best_rows(scores, 100) == [6, 1, 3, 2, 5, 7]
    assert best_rows(np.zeros(4, dtype=np.float32), 2) == []


def test_part_with_rejects_only_has_no_vectors_and_stops_no_build(tmp_path: Path) -> None:
    """A part is 64 records where they are embedded."""
    (tmp_path / "a.jsonl").write_text("no json\n" * 64 + '{"id": "a", "text": "whale"}\n')
    built = _build(tmp_path / "idx", tmp_path / "a.jsonl")
    assert (built.info.documents, built.info.left_out) == (1, 64)
    _open(tmp_path / "idx")


def test_chunks_are_read_rightly_from_many_threads(tmp_path: Path) -> None:
    """Searches run in threads and share one reader."""
    many = {f"n{number}": "x" * (number % 97 + 1) for number in range(500)}
    _build(tmp_path / "idx", _lines(tmp_path / "a.jsonl", many), info=IndexInfo())
    chunks = _open(tmp_path / "idx").chunks

    def read(seed: int) -> bool:
        rows = random.Random(seed).choices(range(len(chunks)), k=5_000)
        return all(chunks[row].id == f"n{row}" for row in rows)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))
