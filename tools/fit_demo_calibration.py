"""Fit the demo model's score scale on training questions and write tools/demo_model/calibration.json.

    python -m tools.fit_demo_calibration [--data ../shared/data]

Run after a change to the tokenizer, the frequencies or the layers; then run tools.build_demo_model. About two minutes
on one core. Never sees the held-out documents.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tools import build_demo_model
from tools.demo_model import calibration, checkpoint, fitting
from tools.demo_model.corpus import COLLECTIONS, Pair, read_pairs
from tools.demo_model.scorer import Scorer

_QUESTIONS = 250  # per language
_DOCUMENT_CHARS = 420


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the two .jsonl files")
    arguments = parser.parse_args()

    sample: list[fitting.Example] = []
    for language in COLLECTIONS:
        pairs = read_pairs(arguments.data, language, held_out=False)
        windows = [Pair(pair.query, pair.document[:_DOCUMENT_CHARS]) for pair in pairs]
        sample += fitting.examples(windows, language, _QUESTIONS)
    with tempfile.TemporaryDirectory() as scratch:
        build_demo_model.build(Path(scratch), calibration.NEUTRAL)
        shutil.copy(checkpoint.MODEL_FOLDER / "tokenizer.json", scratch)
        fitted = fitting.fit(Scorer(Path(scratch)), sample)
    calibration.write_calibration(fitted)
    print(f"{len(sample)} pairs: {fitted}")


if __name__ == "__main__":
    main()
