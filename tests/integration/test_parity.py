"""What is served is what the model card's code gives: the whole way, from the request's JSON to the response's."""

from __future__ import annotations

import pytest

from reranker.model.checkpoint import DEMO_MODEL
from tests.integration.conftest import Service
from tests.model_card import CardReranker
from tests.pairs import LISTS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

TO_THE_CARD = 1e-3
TO_ITSELF = 1e-5


@pytest.fixture(scope="module")
def card() -> CardReranker:
    """The card's code on the demo model: its own prompts, plain Transformers, float32."""
    return CardReranker(DEMO_MODEL)


def _served(service: Service, query: str, documents: list[str]) -> list[float]:
    """The documents' scores, in the list's order, and from the engine each time."""
    results = service.rerank(query, documents, cache="off")["results"]
    scores = {result["index"]: result["relevance_score"] for result in results}
    return [scores[i] for i in range(len(documents))]


def test_fifty_served_scores_are_the_model_cards(service: Service, card: CardReranker) -> None:
    """Suffix, control tokens, cut, head, dtype, sigmoid, order: a mistake in any shows. Measured: 4.4e-5 at most.

    White space does not: the demo model's tokenizer drops it. tests/prompts sees that, with Qwen's.
    """
    differences = {
        (query[:20], document[:20], len(document)): abs(score - card.score(query, document))
        for query, documents in LISTS.items()
        for document, score in zip(documents, _served(service, query, documents), strict=True)
    }
    assert len(differences) == 50
    assert {pair: difference for pair, difference in differences.items() if difference > TO_THE_CARD} == {}


def test_pair_alone_scores_like_in_a_list_of_500(service: Service) -> None:
    """A score must not depend on who asks at the same time. Measured: no difference in any bit."""
    query, documents = "What is the capital of China?", LISTS["What is the capital of China?"]
    filler = [f"{number}. {text}" for number in range(50) for text in LISTS["缺铁性贫血有哪些症状？"][5:]]
    filler += [f"Sentence {number} says nothing of use." for number in range(500 - len(documents) - len(filler))]
    together = _served(service, query, [*filler, *documents])[-len(documents) :]
    alone = [_served(service, query, [document])[0] for document in documents]
    assert together == pytest.approx(alone, rel=0, abs=TO_ITSELF)
