"""Build the bundled demo model, measure it, and make what is derived from it.

    python -m tools.demo_model build [--check]    weights and configuration, from committed inputs, in seconds
    python -m tools.demo_model quality [--check]  the model card's table: beside BM25, about ten minutes on one core
    python -m tools.demo_model judged             benchmarks/judged/: the held-out questions with BM25's 20 best
    python -m tools.demo_model adapter FOLDER     a LoRA adapter, a judged set for it and a configuration (adapter.py)
    python -m tools.demo_model tokenizer          tokenizer.json and token_frequencies.tsv; two minutes on one core
    python -m tools.demo_model heldout            heldout.jsonl
    python -m tools.demo_model calibration        calibration.json; two minutes on one core

A build, anywhere, writes the same bytes: no optimiser, no random numbers. Its inputs are tokenizer.json and what lies
beside this file. --check changes nothing: it fails if a rebuild differs, or if the table was made from other files than
the committed ones. The last three read MedQuAD and CMRC (--data); the tokenizer also depends on the installed packages,
so tests do not rebuild it. The calibration never sees the held-out documents, and a build follows it.

Both rankers of the table see the same question and the same 20 candidates, one of them relevant. "Random": the others
are drawn from the pool. "Hard": they are the 19 that BM25 itself likes best, so BM25 chose its own mistakes.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from tools.demo_model import adapter, checkpoint, embeddings, evaluation, fitting, frequencies, layers, tokenizer
from tools.demo_model.corpus import (
    COLLECTIONS,
    Pair,
    Texts,
    chinese_character_rates,
    chinese_characters,
    gather,
    lines_of,
    read_list,
    read_pairs,
)
from tools.demo_model.evaluation import CANDIDATES, Bm25, TestSet, read_test_sets
from tools.demo_model.scorer import Scorer

CARD = checkpoint.MODEL_FOLDER / "README.md"
JUDGED = Path(__file__).parents[2] / "benchmarks" / "judged"
BUILT_FILES = (
    *("config.json", "model.safetensors", "chat_template.jinja"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_LogitScore/config.json"),
)
_TABLE = re.compile(r"<!-- quality ?([0-9a-f]*) -->\n.*?<!-- /quality -->", re.DOTALL)
_MEASURED = (
    *(checkpoint.MODEL_FOLDER / "model.safetensors", checkpoint.MODEL_FOLDER / "tokenizer.json"),
    *(checkpoint.HELD_OUT, checkpoint.OWN_QUESTIONS),
)
# How often a text is repeated so that its words certainly become single tokens: more often than the ten-thousandth
# most frequent word of the other texts.
_REPEAT_CHARACTER, _REPEAT_WORD, _REPEAT_TEMPLATE = 60, 60, 400
_PASSAGES_EN = 6_000  # windows; as much text as everything else in English together
_HELD_OUT_QUESTIONS = 200
_POOL = {"en": 450, "zh": 235}  # documents to mine negatives from, the answers included; CMRC holds out no more
_DOCUMENT_CHARS = 420
_FITTED_QUESTIONS = 250  # per language


def build(folder: Path, calibration: layers.Calibration) -> None:
    trained = Tokenizer.from_file(str(checkpoint.MODEL_FOLDER / "tokenizer.json"))
    weights = frequencies.token_weights(trained, frequencies.read_rates(checkpoint.FREQUENCIES, trained))
    embedding, square = embeddings.embed(trained, weights, read_list(checkpoint.INPUTS / "synonyms.txt"))
    tensors = layers.named_tensors(embedding, layers.build_layers(square, calibration))
    checkpoint.write_config(trained, folder)
    checkpoint.write_scoring(trained, folder)
    checkpoint.write_weights(tensors, folder / "model.safetensors")


def stale_files() -> list[str]:
    """Rebuild into a temporary folder and name the committed files that differ by a byte."""
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), layers.read_calibration())
        return [
            name
            for name in BUILT_FILES
            if (checkpoint.MODEL_FOLDER / name).read_bytes() != (Path(scratch) / name).read_bytes()
        ]


def table(sets: Sequence[TestSet], scorer: evaluation.Ranker) -> Iterator[str]:
    """Yield the lines of the card's table, one set and difficulty a line."""
    yield "| questions | others | n | BM25 top-1 | BM25 MRR | demo top-1 | demo MRR |"
    yield "|---|---|---|---|---|---|---|"
    for test in sets:
        bm25 = Bm25(test.pool, test.language)
        trials = {
            "random": evaluation.random_trials(test.pairs, test.pool),
            "hard": evaluation.hard_trials(test.pairs, test.pool, bm25),
        }
        for difficulty, chosen in trials.items():
            cells = [test.name, difficulty, str(len(chosen))]
            for ranker in (bm25, scorer):
                quality = evaluation.measure(ranker, chosen)
                cells.append(f"{quality.top1:.3f} ± {quality.top1_error:.3f}")
                cells.append(f"{quality.mrr:.3f} ± {quality.mrr_error:.3f}")
            yield f"| {' | '.join(cells)} |"


def fingerprint(paths: Sequence[Path] = _MEASURED) -> str:
    """Return a short hash of everything the table depends on."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def is_stale(card: str) -> bool:
    found = _TABLE.search(card)
    return found is None or found[1] != fingerprint()


def write_quality() -> None:
    torch.set_num_threads(1)  # the model is too small to gain from more
    lines = []
    for line in table(read_test_sets(), Scorer()):
        print(line, flush=True)
        lines.append(line)
    block = "\n".join([f"<!-- quality {fingerprint()} -->", *lines, "<!-- /quality -->"])
    card, written = _TABLE.subn(lambda _found: block, CARD.read_text(encoding="utf-8"))
    if not written:
        raise RuntimeError("the model card has no place for the table: <!-- quality --> ... <!-- /quality -->")
    CARD.write_text(card, encoding="utf-8")


def write_judged(test: TestSet, folder: Path) -> None:
    """Write a test set in BEIR's form, each question with BM25's 20 best documents; ids are positions (q0, d0).

    Where the relevant document is not among the candidates, no reranker can bring it back. Documents that share no word
    with the question have score 0 and fill the 20 up in an order by hash, which has nothing to do with relevance.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    position = {document: index for index, document in enumerate(test.pool)}
    _write(folder / "queries.jsonl", (_json({"_id": f"q{i}", "text": one.query}) for i, one in enumerate(test.pairs)))
    _write(folder / "corpus.jsonl", (_json({"_id": f"d{i}", "text": text}) for i, text in enumerate(test.pool)))
    relevant = [f"q{i}\td{position[pair.document]}\t1" for i, pair in enumerate(test.pairs)]
    _write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *relevant])
    bm25 = Bm25(test.pool, test.language)
    candidates: list[str] = []
    for i, pair in enumerate(test.pairs):
        scores = bm25.pool_scores(pair.query)
        # Equal scores by hash: the pool's own order puts answers first.
        hashes = [hashlib.sha256(text.encode()).digest() for text in test.pool]
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], hashes[index]))
        for rank, index in enumerate(order[:CANDIDATES], start=1):
            candidates.append(f"q{i} Q0 d{index} {rank} {scores[index]:.4f} bm25")
    _write(folder / "candidates.trec", candidates)


def _json(row: dict[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_tokenizer(data: Path) -> None:
    texts = gather(data)
    trained = tokenizer.train_tokenizer(training_texts(texts))
    plain = tokenizer.without_control_tokens(trained)
    rates = frequencies.document_rates(plain, texts, chinese_character_rates())
    checkpoint.write_tokenizer(trained, checkpoint.MODEL_FOLDER)
    frequencies.write_rates(checkpoint.FREQUENCIES, trained, rates)
    print({name: len(getattr(texts, name)) for name in texts.__slots__})


def training_texts(texts: Texts) -> Iterator[str]:
    """Yield the text the merges are learned from; the order does not matter to BPE, the counts do."""
    yield from (*texts.questions_en, *texts.questions_zh, *texts.passages_zh)
    yield from (*texts.passages_en[:_PASSAGES_EN], *texts.technical_en)
    yield from chinese_characters() * _REPEAT_CHARACTER
    yield from lines_of("everyday_words.txt") * _REPEAT_WORD
    yield from [tokenizer.ALL_TEXT] * _REPEAT_TEMPLATE


def held_out_rows(data: Path, language: str) -> Iterator[dict[str, str]]:
    """Yield the pool of one language, whose first rows carry a question, the others only a document.

    These documents are in no other input of the model (corpus.is_held_out). The drawing is by hash, so that it is the
    same everywhere.
    """
    seen = {pair.document[:_DOCUMENT_CHARS] for pair in read_pairs(data, language, held_out=False)}
    pairs = [pair for pair in read_pairs(data, language, held_out=True) if pair.document[:_DOCUMENT_CHARS] not in seen]
    pairs.sort(key=lambda pair: hashlib.sha256(f"{pair.query}\n{pair.document}".encode()).digest())
    by_document = {pair.document[:_DOCUMENT_CHARS]: pair for pair in reversed(pairs)}
    source = COLLECTIONS[language].removesuffix(".jsonl")
    for index, (document, pair) in enumerate(list(by_document.items())[: _POOL[language]]):
        question = {"query": pair.query} if index < _HELD_OUT_QUESTIONS else {}
        yield {"source": source, "language": language, **question, "document": document}


def write_calibration(data: Path) -> None:
    """Fit the scale of the scores on training questions."""
    sample: list[fitting.Example] = []
    for language in COLLECTIONS:
        pairs = read_pairs(data, language, held_out=False)
        windows = [Pair(pair.query, pair.document[:_DOCUMENT_CHARS]) for pair in pairs]
        sample += fitting.examples(windows, language, _FITTED_QUESTIONS)
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), layers.NEUTRAL)
        shutil.copy(checkpoint.MODEL_FOLDER / "tokenizer.json", scratch)
        fitted = fitting.fit(Scorer(Path(scratch)), sample)
    layers.write_calibration(fitted)
    print(f"{len(sample)} pairs: {fitted}")


def main() -> int:
    """Do one thing; exit status 1 means that a committed file is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("build", "quality"):
        commands.add_parser(name).add_argument("--check", action="store_true", help="change nothing; fail if stale")
    commands.add_parser("judged")
    commands.add_parser("adapter").add_argument("folder", type=Path)
    for name in ("tokenizer", "heldout", "calibration"):
        commands.add_parser(name).add_argument("--data", type=Path, default=Path("../shared/data"), help="of MedQuAD")
    arguments = parser.parse_args()
    stale: list[str] = []
    match arguments.command:
        case "build" if arguments.check:
            stale = stale_files()
        case "quality" if arguments.check:
            stale = [f"the quality table of {CARD.name}"] if is_stale(CARD.read_text(encoding="utf-8")) else []
        case "build":
            build(checkpoint.MODEL_FOLDER, layers.read_calibration())
        case "quality":
            write_quality()
        case "judged":
            for test in read_test_sets():
                write_judged(test, JUDGED / test.name.replace(", ", "-").replace(" ", "-"))
        case "adapter":
            adapter.write(arguments.folder)
        case "tokenizer":
            write_tokenizer(arguments.data)
        case "heldout":
            rows = (row for language in COLLECTIONS for row in held_out_rows(arguments.data, language))
            _write(checkpoint.HELD_OUT, map(_json, rows))
        case "calibration":
            write_calibration(arguments.data)
    for name in stale:
        print(f"stale: {name} of reranker/model/demo_model; run python -m tools.demo_model {arguments.command}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
