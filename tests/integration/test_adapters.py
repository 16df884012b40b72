"""An adapter's name in a request, through HTTP, shards and replicas; real ones: tests/engine/test_lora.py."""

from __future__ import annotations

from tests.integration.conftest import Service

DOCUMENTS = [f"{i} " + "word " * 200 for i in range(40)]  # enough for several replicas


def test_model_in_a_request_chooses_the_adapter(simulated: Service) -> None:
    base = simulated.rerank("adapters", DOCUMENTS)
    adapted = simulated.rerank("adapters", DOCUMENTS, model="medical")
    assert (base["model"], adapted["model"]) == ("simulated", "medical")
    assert adapted["meta"]["shards"] > 1

    def scores(answer: dict[str, list[dict[str, float]]]) -> dict[float, float]:
        return {one["index"]: one["relevance_score"] for one in answer["results"]}

    assert not set(scores(base).items()) & set(scores(adapted).items())
    for model, answer in ((None, base), ("medical", adapted), ("of-another-service", base)):
        again = simulated.rerank("adapters", DOCUMENTS, model=model)
        assert (scores(again), again["model"]) == (scores(answer), answer["model"])
    misspelt = simulated.post("adapters", DOCUMENTS[:1], model="medicine")
    assert misspelt.headers["x-reranker-ignored"] == "model"
