"""Train the demo model's tokenizer and count its document frequencies. Run when the texts change, then commit both.

    python -m tools.build_demo_tokenizer [--data ../shared/data]

The result depends on the installed packages (their docstrings are part of the text), so it is not rebuilt by tests.
Takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tools.demo_model import checkpoint, frequencies, text_sources, tokenizer
from tools.demo_model.template import ALL_TEXT

# How often a text is repeated so that its words certainly become single tokens: more often than the ten-thousandth
# most frequent word of the other texts.
_REPEAT_CHARACTER, _REPEAT_WORD, _REPEAT_TEMPLATE = 60, 60, 400
_PASSAGES_EN = 6_000  # windows; as much text as everything else in English together


def training_texts(texts: text_sources.Texts) -> Iterator[str]:
    """Yield the text the merges are learned from; the order does not matter to BPE, the counts do."""
    yield from texts.questions_en
    yield from texts.questions_zh
    yield from texts.passages_zh
    yield from texts.passages_en[:_PASSAGES_EN]
    yield from texts.technical_en
    for _ in range(_REPEAT_CHARACTER):
        yield from text_sources.chinese_characters()
    for _ in range(_REPEAT_WORD):
        yield from text_sources.lines_of("everyday_words.txt")
    for _ in range(_REPEAT_TEMPLATE):
        yield ALL_TEXT


def main() -> None:
    """Write tokenizer.json, tokenizer_config.json and token_frequencies.tsv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the two .jsonl files")
    arguments = parser.parse_args()

    texts = text_sources.gather(arguments.data)
    trained = tokenizer.train_tokenizer(training_texts(texts))
    rates = frequencies.document_rates(
        tokenizer.without_control_tokens(trained), texts, text_sources.chinese_character_rates()
    )
    checkpoint.write_tokenizer(trained, checkpoint.MODEL_FOLDER)
    frequencies.write_rates(checkpoint.FREQUENCIES, trained, rates)
    sizes = {name: len(getattr(texts, name)) for name in texts.__slots__}
    print(json.dumps({"vocabulary": trained.get_vocab_size(), "texts": sizes}))


if __name__ == "__main__":
    main()
