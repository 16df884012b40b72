"""What tokenizing costs, fastokens beside Hugging Face's tokenizer: the figures of docs/decisions/0017-fastokens.md.

python -m benchmarks.tokenizing [--million]

One core, Qwen3's tokenizer, texts that neither has seen; `--million`: the process's memory over a million documents.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

# Before either is loaded: as in the ingress, a batch is encoded by the thread that asks.
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "FASTOKENS_BPE_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

import psutil

from benchmarks.texts import corpus_words, judged
from reranker.config import ModelConfig
from reranker.model.prompt import PromptRenderer
from tools.qwen_tokenizer import write_tokenizer

_DOCUMENTS, _ROUNDS = 1_000, 5
_TOKENS = (40, 150, 250, 500)
_QUERY = "what is the capital of china"


def english(chance: random.Random, tokens: int) -> str:
    """Words of English answers in random order: some 1.35 tokens each."""
    return " ".join(chance.choices(corpus_words(), k=round(tokens / 1.35)))


def chinese(chance: random.Random, tokens: int) -> str:
    """Pieces of Chinese passages: some 0.65 tokens a character."""
    passages, text = judged("cmrc-zh", "corpus"), ""
    while len(text) * 0.65 < tokens:
        start = chance.randrange(len(passage := chance.choice(passages)))
        text += passage[start : start + 20]
    return text


def side_by_side(fast: PromptRenderer, reference: PromptRenderer) -> None:
    print("| texts | tokens a document | Hugging Face, ms | fastokens, ms | ratio |\n|---|---|---|---|---|")
    chance = random.Random(17)
    for kind, make in (("English", english), ("Chinese", chinese)):
        for tokens in _TOKENS:
            took: dict[PromptRenderer, list[float]] = {fast: [], reference: []}
            count = 0
            for _ in range(_ROUNDS):  # in turn, each time with other documents
                documents = [make(chance, tokens) for _ in range(_DOCUMENTS)]
                for renderer, times in took.items():
                    began_s = time.thread_time()
                    count = len(renderer.render(_QUERY, documents).prompts.tokens)
                    times.append((time.thread_time() - began_s) * 1e3)
            slow_ms, fast_ms = (sorted(took[one])[_ROUNDS // 2] for one in (reference, fast))
            print(f"| {kind} | {count / _DOCUMENTS:.0f} | {slow_ms:,.0f} | {fast_ms:.1f} | {slow_ms / fast_ms:.0f} |")


def million(renderer: PromptRenderer, documents: int = 1_000_000) -> None:
    """Render so many documents, none of whose words repeat in order, and print the memory now and then."""
    chance, process = random.Random(18), psutil.Process()
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    for number in range(0, documents, 1_000):
        new = ["".join(chance.choices(letters, k=9)) for _ in range(20_000)]  # words that were never seen
        batch = [" ".join(new[20 * i : 20 * i + 20]) + " " + english(chance, 40) for i in range(1_000)]
        renderer.render(_QUERY, batch)
        if number % (documents // 10) == 0 or number + 1_000 == documents:
            print(f"{number + 1_000:>9,} documents: {process.memory_info().rss / 2**20:,.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        instruction = ModelConfig().instruction
        fast = PromptRenderer(Path(folder), 8_192, instruction)
        if parser.parse_args().million:
            million(fast)
        else:
            side_by_side(fast, PromptRenderer(Path(folder), 8_192, instruction, few=True))


if __name__ == "__main__":
    main()
