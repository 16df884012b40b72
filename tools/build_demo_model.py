"""Write the demo model's weights from the committed inputs; a second run, anywhere, writes the same bytes.

    python -m tools.build_demo_model            # writes reranker/model/demo_model/{config.json,model.safetensors}
    python -m tools.build_demo_model --check    # rebuilds elsewhere and compares

Inputs: reranker/model/demo_model/tokenizer.json, and in tools/demo_model/ token_frequencies.tsv, synonyms.txt,
calibration.json and texts/function_words_*.txt. Takes seconds. No optimiser, no random numbers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from tools.demo_model import checkpoint, embeddings, layers
from tools.demo_model.calibration import read_calibration
from tools.demo_model.frequencies import read_rates
from tools.demo_model.idf import token_weights
from tools.demo_model.text_sources import read_list

BUILT_FILES = ("config.json", "model.safetensors")


def build(folder: Path, calibration: layers.Calibration) -> None:
    """Write the built files into `folder`."""
    tokenizer = Tokenizer.from_file(str(checkpoint.MODEL_FOLDER / "tokenizer.json"))
    weights = token_weights(tokenizer, read_rates(checkpoint.FREQUENCIES, tokenizer))
    embedding, square = embeddings.embed(tokenizer, weights, read_list(checkpoint.INPUTS / "synonyms.txt"))
    tensors = layers.named_tensors(embedding, layers.build_layers(square, calibration))
    checkpoint.write_config(tokenizer, folder)
    checkpoint.write_weights(tensors, folder / "model.safetensors")


def stale_files() -> list[str]:
    """Rebuild into a temporary folder and name the committed files that differ by a byte."""
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), read_calibration())
        return [
            name
            for name in BUILT_FILES
            if (checkpoint.MODEL_FOLDER / name).read_bytes() != (Path(scratch) / name).read_bytes()
        ]


def main() -> int:
    """Build, or check with --check; exit status 1 means a committed file is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a rebuild differs")
    if not parser.parse_args().check:
        build(checkpoint.MODEL_FOLDER, read_calibration())
        return 0
    stale = stale_files()
    for name in stale:
        print(f"stale: reranker/model/demo_model/{name}; run python -m tools.build_demo_model")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
