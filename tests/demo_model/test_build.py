"""The committed files are what the committed inputs build, in a form that other programs read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tools.demo_model import __main__ as demo_model
from tools.demo_model import checkpoint, frequencies
from tools.demo_model.corpus import read_list
from tools.demo_model.embeddings import read_synonyms, word_vector
from tools.demo_model.layers import NEUTRAL
from tools.demo_model.tokenizer import untrained_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = checkpoint.MODEL_FOLDER


def test_a_rebuild_gives_the_committed_bytes() -> None:
    """Run as a command and with two threads: neither the process nor the thread count may show in the weights."""
    command = [sys.executable, "-m", "tools.demo_model", "build", "--check"]
    environment = {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "PATH": ""}

    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_check_notices_other_weights(tmp_path: Path) -> None:
    """A check that compared nothing would pass the test above."""
    demo_model.build(tmp_path, NEUTRAL)

    assert (tmp_path / "config.json").read_bytes() == (MODEL / "config.json").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() != (MODEL / "model.safetensors").read_bytes()


def test_the_committed_tokenizer_splits_words_as_the_code_says() -> None:
    """Its vocabulary depends on texts that are not committed; all the rest is in tokenizer.py."""
    committed = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    code = json.loads(untrained_tokenizer().to_str())

    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert committed[part] == code[part], part


def test_frequencies_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """Ids would be off by one for every later token, and the model silently worse."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    shifted = tmp_path / "token_frequencies.tsv"
    lines = checkpoint.FREQUENCIES.read_text(encoding="utf-8").splitlines()
    shifted.write_text("\n".join(lines[1:]), encoding="utf-8")

    with pytest.raises(ValueError, match="count again"):
        frequencies.read_rates(shifted, tokenizer)


def test_the_checkpoint_is_a_plain_qwen3_that_every_reader_knows() -> None:
    """Custom code would need trust_remote_code; another class would not go through vLLM's conversion."""
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))

    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "float32"
    assert not any(key.startswith("auto_map") for key in config)


def test_the_weights_file_reads_as_bfloat16_and_the_folder_stays_small() -> None:
    """Our own writer follows the format: the safetensors package reads it."""
    tensors = load_file(MODEL / "model.safetensors")

    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 16_000_000


def test_rounding_to_bfloat16_is_torch_s() -> None:
    """Ties go to the even neighbour; a plain cut would bias every weight downwards."""
    values = torch.tensor([1.0, -1.00390625, 1.01171875, 0.1, -3.14159, 1e-30, 213.7], dtype=torch.float64)
    ours = checkpoint.rounded(values.numpy())

    assert torch.equal(torch.from_numpy(ours), values.bfloat16().double())


def test_word_vectors_of_different_words_are_nearly_orthogonal() -> None:
    """A query word must not half-match a stranger: with SHARPNESS 40 a cosine of 0.6 still gets e^-16."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    vectors = torch.tensor([word_vector(token).tolist() for token in sorted(tokenizer.get_vocab())[::8]])
    cosines = vectors @ vectors.T - torch.eye(len(vectors))

    assert cosines.abs().max() < 0.65
    assert cosines.std() == pytest.approx(96**-0.5, rel=0.05)


def test_a_synonym_class_needs_no_order_and_a_word_joins_one_class_only() -> None:
    """Classes that overlapped would merge into one, and "get" would come to mean "reset"."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    car, auto, error, bug, insect = (
        tokenizer.encode(w).ids[0] for w in ("car", "automobile", "error", "bug", "insect")
    )

    leaders = read_synonyms(["car automobile", "error bug", "insect bug", "notoneword,atall car"], tokenizer)

    assert leaders == {car: car, auto: car, error: error, bug: error, insect: insect}


def test_every_committed_synonym_class_has_at_least_two_members() -> None:
    """A class whose other words are not in the vocabulary would be a line without effect."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    lines = read_list(checkpoint.INPUTS / "synonyms.txt")
    leaders = list(read_synonyms(lines, tokenizer).values())

    assert len(lines) > 50
    assert min(leaders.count(leader) for leader in leaders) >= 2


def test_the_card_s_table_was_measured_on_the_committed_model() -> None:
    """Figures of another model are worse than none; `make demo-quality` renews them."""
    card = demo_model.CARD.read_text(encoding="utf-8")

    assert not demo_model.is_stale(card)
    assert demo_model.is_stale(card.replace(demo_model.fingerprint(), "0" * 16))
