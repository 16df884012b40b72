"""Lists of documents, the scores that simulated engines must give them, and clients that send them all the time."""

from __future__ import annotations

import functools
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np

from reranker.config import ModelConfig
from reranker.engine.simulated import simulated_logit
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking.scoring import relevance_scores
from tests.integration.conftest import TLS, Service

QUERY = "which capital has a museum by the river"
_WORDS = ("capital", "china", "beijing", "river", "mountain", "paris", "music", "engine", "paper", "museum", "iron")


def documents(count: int, words: tuple[int, int] = (3, 60), seed: int | None = None) -> list[str]:
    """Make so many documents of a few words each, all different; the same ones every time."""
    draw = random.Random(count if seed is None else seed)
    return [f"{number} " + " ".join(draw.choices(_WORDS, k=draw.randint(*words))) for number in range(count)]


@functools.cache
def _renderer() -> PromptRenderer:
    model = ModelConfig()
    return PromptRenderer.of(find_checkpoint(model), model)


def simulated_scores(query: str, texts: Sequence[str], seed: int = 0) -> dict[int, float]:
    """Each document's score, by index, as one simulated engine of this `score_seed` alone gives it."""
    prompts = _renderer().render(query, texts).prompts
    head, tail = prompts.head.tolist(), prompts.tail.tolist()
    logits = [
        simulated_logit([*head, *prompts.tokens[start:end].tolist(), *tail], seed=seed)
        for start, end in itertools.pairwise(prompts.offsets)
    ]
    return dict(enumerate(relevance_scores(np.asarray(logits)).tolist()))


def work_tokens(query: str, texts: Sequence[str]) -> int:
    """Tokens a list costs an engine."""
    return _renderer().render(query, texts).prompts.work_tokens


def scores_of(answer: dict[str, Any]) -> dict[int, float]:
    """Each document's score, by index, as the service gave it."""
    return {result["index"]: result["relevance_score"] for result in answer["results"]}


def wait_until(so: Callable[[], object], timeout_s: float = 120) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < deadline, f"not so within {timeout_s} s"
        time.sleep(0.1)  # what is asked for may be all processes of a service


@dataclass(frozen=True, slots=True)
class RankedList:
    """A list, and what its answer must be."""

    query: str
    documents: list[str]
    scores: dict[int, float]
    tolerance: float = 0

    @classmethod
    def simulated(cls, number: int, count: int) -> Self:
        """The list of this number, of so many documents, scored by simulated engines."""
        query, texts = f"{QUERY} {number}", documents(count, seed=number)
        return cls(query, texts, simulated_scores(query, texts))

    def body(self, **fields: Any) -> bytes:
        """As it is sent."""
        return json.dumps({"query": self.query, "documents": self.documents, **fields}).encode()

    def problem(self, response: httpx.Response) -> str | None:
        """What is wrong with a response, if anything."""
        if response.status_code != 200:
            return f"{response.status_code}: {response.text}"
        return self.wrong(response.json())

    def wrong(self, answer: dict[str, Any]) -> str | None:
        """What is wrong with an answer, if anything."""
        scores = scores_of(answer)
        if scores.keys() != self.scores.keys():
            return f"{len(scores)} of {len(self.scores)} documents came back"
        if list(scores.values()) != sorted(scores.values(), reverse=True):
            return "the results are not sorted"
        wrong = sum(abs(score - self.scores[index]) > self.tolerance for index, score in scores.items())
        return f"{wrong} of {len(scores)} scores are wrong" if wrong else None


@dataclass(frozen=True, slots=True)
class ListOfAnyModel(RankedList):
    """A list, and what its answer must be for each model that may have scored it."""

    by_name: dict[str, dict[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, count: int, seeds: Mapping[str, int]) -> Self:
        """The list of this number, of so many documents; simulated models by name, with their `score_seed`."""
        query, texts = f"{QUERY} {number}", documents(count, seed=number)
        return cls(query, texts, {}, by_name={name: simulated_scores(query, texts, one) for name, one in seeds.items()})

    def wrong(self, answer: dict[str, Any]) -> str | None:
        """What is wrong with an answer, if anything."""
        scores = scores_of(answer)
        if scores == self.by_name.get(answer["model"]):
            return None
        others = [name for name, right in self.by_name.items() if scores == right]
        return f"misnamed: {answer['model']} by {others[0]}" if others else f"mixed: {answer['model']}"


@dataclass
class Traffic:
    """Clients that send lists one after the other, each on a thread, for as long as the block lasts."""

    service: Service
    lists: Sequence[RankedList]
    clients: int = 4
    answers: list[dict[str, Any]] = field(default_factory=list)
    """Those with the right scores."""
    problems: list[str] = field(default_factory=list)
    """What was wrong with each of the others."""

    def __enter__(self) -> Self:
        """Start to send."""
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no more, and wait for the answers that are due."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int, timeout_s: float = 120) -> None:
        """Wait until so many more lists were answered."""
        wanted = len(self.answers) + len(self.problems) + answers
        wait_until(lambda: len(self.answers) + len(self.problems) >= wanted, timeout_s)

    def _send(self, client: int) -> None:
        with httpx.Client(base_url=self.service.url, timeout=120, headers=self.service.headers, verify=TLS) as http:
            for one in itertools.islice(itertools.cycle(self.lists), client, None):
                if self._stopped.is_set():
                    return
                try:
                    response = http.post("/v1/rerank", json={"query": one.query, "documents": one.documents})
                except httpx.HTTPError as error:
                    self.problems.append(repr(error))
                    continue
                problem = one.problem(response)
                if problem is None:
                    self.answers.append(response.json())
                else:
                    self.problems.append(problem)
