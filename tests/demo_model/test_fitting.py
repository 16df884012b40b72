"""From texts to document frequencies, from frequencies to weights, and from examples to the scale of the scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tools.demo_model import __main__ as demo_model
from tools.demo_model import checkpoint, fitting, frequencies, layers
from tools.demo_model.corpus import Texts
from tools.demo_model.evaluation import read_test_sets
from tools.demo_model.frequencies import token_weights
from tools.demo_model.scorer import Scorer
from tools.demo_model.tokenizer import spelling

TOKENIZER = Tokenizer.from_file(str(checkpoint.MODEL_FOLDER / "tokenizer.json"))


def id_of(word: str) -> int:
    """Return the id of a word that is one token."""
    [token] = TOKENIZER.encode(word, add_special_tokens=False).ids
    return token


def test_a_word_is_as_frequent_as_the_geometric_mean_of_two_kinds_of_text_or_as_its_frames_say() -> None:
    """Medical texts all say "patient": that must not make it worthless elsewhere. Frames hold a word down anywhere."""
    texts = Texts(
        questions_en=["banana?", "x", "x", "x"],
        questions_zh=["x"],
        passages_en=["patient pizza"] * 2,
        passages_zh=["图"] * 2,
        technical_en=["python pizza"] * 2,
        claims_en=["system"] * 6 + ["oven"] * 2 + ["x"] * 2,
        claims_zh=["x"],
    )

    rates = frequencies.document_rates(TOKENIZER, texts, {"图": 1.0})

    assert rates[id_of("pizza")] == 1
    assert rates[id_of("patient")] == rates[id_of("python")] == pytest.approx((1 / 8000) ** 0.5)
    assert rates[id_of("图")] == pytest.approx(0.5**0.5)
    assert rates[id_of("banana")] == 0.25 * 0.25
    assert rates[id_of("system")] == 0.4  # (6 - 2) of 10
    assert rates[id_of("oven")] == pytest.approx(1 / 8000)  # two uses are a topic, not a habit


def test_the_frequency_table_survives_writing_and_reading(tmp_path: Path) -> None:
    """It is the committed input of every build."""
    rates = [index / 16_000 for index in range(TOKENIZER.get_vocab_size())]

    frequencies.write_rates(tmp_path / "table.tsv", TOKENIZER, rates)

    assert frequencies.read_rates(tmp_path / "table.tsv", TOKENIZER) == pytest.approx(rates, abs=1e-5)


def test_weights_fall_with_frequency_and_grammar_and_the_template_weigh_next_to_nothing() -> None:
    """Everything appears in one text of 100 here, so only the caps make a difference."""
    weights = token_weights(TOKENIZER, [0.01] * TOKENIZER.get_vocab_size())
    rarer = token_weights(TOKENIZER, [0.0001] * TOKENIZER.get_vocab_size())

    banana, the, of_zh, dash, yes = (id_of(text) for text in ("banana", "the", "的", "-", "yes"))
    assert weights.idf[banana] == pytest.approx(0.2626, abs=1e-3)  # (ln 100 / ln 8000)^2
    assert rarer.idf[banana] == 1
    assert weights.root[banana] == pytest.approx(weights.idf[banana] ** 0.5, abs=1e-3)
    assert max(weights.idf[token] for token in (the, of_zh, dash)) < 0.02
    assert {weights.root[token] for token in (the, of_zh, dash, yes)} == {0}
    assert weights.idf[yes] == weights.idf[spelling(TOKENIZER).index("<document>:")] == 0


def test_examples_have_one_relevant_document_in_five_and_all_lengths() -> None:
    """With one length only, the bias would be fitted for that length."""
    pairs = next(test.pairs for test in read_test_sets() if test.name == "medquad, en")

    sample = list(fitting.examples(pairs, "en", questions=60))
    lengths = [len(example.document) for example in sample]

    assert len(sample) == 300
    assert 60 <= sum(example.relevant for example in sample) <= 66  # a random draw may hit the answer again
    assert min(lengths) <= 140
    assert max(lengths) > 1500


def test_the_fit_finds_a_scale_on_which_answers_are_likelier_than_not(tmp_path: Path) -> None:
    """From the neutral model, with nothing but right and wrong pairs of our own questions."""
    demo_model.build(tmp_path, layers.NEUTRAL)
    shutil.copy(checkpoint.MODEL_FOLDER / "tokenizer.json", tmp_path)
    pairs = next(test.pairs for test in read_test_sets() if test.name == "written here, en")
    documents = [pair.document for pair in pairs]
    right = [fitting.Example(pair.query, pair.document, relevant=True) for pair in pairs]
    wrong = [fitting.Example(pair.query, documents[index - 7], relevant=False) for index, pair in enumerate(pairs)]

    neutral = Scorer(tmp_path)
    fitted = fitting.fit(neutral, right + wrong)
    demo_model.build(tmp_path, fitted)
    scorer = Scorer(tmp_path)

    def mean(sample: list[fitting.Example]) -> float:
        return sum(scorer.scores(example.query, [example.document])[0] for example in sample) / len(sample)

    assert fitted.gain > 50
    assert mean(right) > 0.5 > mean(wrong)
