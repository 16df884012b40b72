"""How good the spans of documents are, on questions with known answers, and what they cost; the engine in this process.

    python -m benchmarks.evidence            # the demo model, some minutes; --model for another; --cost, --quality: one

benchmarks/judged/answers.jsonl has questions on passages that answer them, with the words that do, chosen by hand. Each
is ranked with the nine others that BM25 likes best, and the evidence of the best five is passed on.
"""

import asyncio
import json
import statistics
import sys
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.results import ROOT, parser, say
from benchmarks.texts import judged
from deployments.cli.rankers import LocalFleet, LocalReranker, open_local
from reranker.config import RerankerConfig
from reranker.model.prompt import PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.ranking.sentences import split
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, Ranking, RankRequest, SpanTerms

QUESTIONS = ROOT / "benchmarks" / "judged" / "answers.jsonl"
CANDIDATES, PASSED_ON = 10, 5
COST_DOCUMENTS, COST_TOKENS, COST_TOP_N, ROUNDS = 100, 200, 10, 15


@dataclass(frozen=True, slots=True)
class Question:
    language: str
    query: str
    document: str
    answer: str
    """Words of the document."""


async def quality(local: LocalReranker, ranker: Ranker) -> None:
    from tools.demo_model.evaluation import Bm25  # not before the engine: vLLM stumbles over what bm25s imports

    questions = [Question(**json.loads(line)) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    for language in ("zh", "en"):
        own = [one for one in questions if one.language == language]
        documents = list(dict.fromkeys(one.document for one in own))
        sentences = [
            [text[start:end] for start, end in parts]
            for text, parts in zip(documents, split(documents, 64), strict=True)
        ]
        by_document = dict(zip(documents, sentences, strict=True))
        of_documents = Bm25(documents, language)
        of_sentences = Bm25(list(dict.fromkeys(one for those in sentences for one in those)), language)
        first, at_random, bm25 = [], [], []
        kept: dict[float, list[bool]] = {0.05: [], 0.1: [], 0.3: []}
        tokens = {threshold: [0, 0] for threshold in kept}
        for one in own:
            those = by_document[one.document]
            at_random.append(statistics.mean(one.answer in sentence for sentence in those))
            bm25.append(one.answer in those[int(np.argmax(of_sentences.scores(one.query, those)))])
            liked = np.argsort(-of_documents.pool_scores(one.query), kind="stable")
            others = [documents[place] for place in liked if documents[place] != one.document]
            listed = [one.document, *others[: CANDIDATES - 1]]
            request = RankRequest(one.query, tuple(listed), top_n=PASSED_ON, spans=SpanTerms(threshold=0.0))
            [ranking] = await ranker.rank([request], ANONYMOUS, RequestRecord())
            alone = replace(request, documents=(one.document,), top_n=None)
            [single] = await ranker.rank([alone], ANONYMOUS, RequestRecord())
            best = single.results[0].spans[0]
            first.append(one.answer in one.document[best.start : best.end])
            for threshold in kept:
                _pass_on(one, listed, ranking, threshold, local.renderer, kept[threshold], tokens[threshold])
        say(f"{language}: {len(own)} questions, {statistics.mean(map(len, sentences)):.1f} sentences a document")
        say(
            f"  the answer is in the first span {statistics.mean(first):.3f}, in BM25's first sentence "
            f"{statistics.mean(bm25):.3f}, in a random one {statistics.mean(at_random):.3f}"
        )
        for threshold, keeps in kept.items():
            share = tokens[threshold][0] / tokens[threshold][1]
            say(
                f"  threshold {threshold}: evidence keeps it {statistics.mean(keeps):.3f}, at {share:.3f} of the tokens"
            )


def _pass_on(
    one: Question,
    listed: list[str],
    ranking: Ranking,
    threshold: float,
    renderer: PromptRenderer,
    kept: list[bool],
    tokens: list[int],
) -> None:
    """Count what of the best documents would go on, where the one that answers is among them."""
    if 0 not in (result.index for result in ranking.results):
        return
    found = False
    for result in ranking.results:
        spans = [span for span in result.spans if span.relevance_score >= threshold]
        texts = [listed[result.index][span.start : span.end] for span in spans]
        found |= result.index == 0 and any(one.answer in text for text in texts)
        tokens[0] += sum(renderer.count_tokens(texts)) if texts else 0
        tokens[1] += sum(renderer.count_tokens([listed[result.index]]))
    kept.append(found)


async def cost(local: LocalReranker, ranker: Ranker) -> None:
    """Measure engine time of a list with and without spans, in turns."""
    texts, documents = judged("medquad-en", "corpus"), []
    for number in range(COST_DOCUMENTS):
        text = " ".join(texts[(3 * number + more) % len(texts)] for more in range(3))
        tokens = local.renderer.count_tokens([text])[0]
        documents.append(text[: len(text) * COST_TOKENS // tokens])
    took_s: dict[bool, list[float]] = {False: [], True: []}
    work: dict[bool, int] = {}
    for number in range(2 * ROUNDS):
        spans = number % 2 == 1
        query = f"What are the symptoms and the treatment of case {number}?"
        request = RankRequest(query, tuple(documents), top_n=COST_TOP_N, spans=SpanTerms() if spans else None)
        record = RequestRecord()
        await ranker.rank([request], ANONYMOUS, record)
        took_s[spans].append(record.stages_s()["engine"])
        work[spans] = sum(shard.tokens for shard in record.shards)
    without, with_spans = (statistics.median(took_s[spans]) for spans in (False, True))
    say(f"{COST_DOCUMENTS} documents of {COST_TOKENS} tokens, top_n {COST_TOP_N}: engine {without * 1e3:.0f} ms,")
    say(
        f"with spans {with_spans * 1e3:.0f} ms: {with_spans / without:.2f} times; tokens {work[True] / work[False]:.2f}"
    )


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--quality", action="store_true")
    arguments.add_argument("--cost", action="store_true")
    parsed = arguments.parse_args()
    config = RerankerConfig.model_validate({"model": {"name": parsed.model}, "limits": {"timeout_s": 3600}})
    with open_local(config) as local:
        ranker = Ranker(config, local.renderer, LocalFleet(local.engine))

        async def measure() -> None:
            for chosen, one in ((parsed.quality, quality), (parsed.cost, cost)):
                if chosen or not (parsed.quality or parsed.cost):
                    await one(local, ranker)

        asyncio.run(measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
