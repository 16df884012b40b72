"""A LoRA adapter for the demo model that knows a hospital's words, and a judged set for it; no training, a second.

People ask in everyday words, the notes hold the hospital's: "kidney", "renal". A ranker that compares words cannot find
those. The demo model was written by hand (tools/demo_model), and its attention is too sharp for gradients, so its
adapter is written, too: in layer 1, where each document token looks for its copies, the projections of queries and keys
turn the vectors of sixteen words into those of sixteen others, which they leave as they are, by the smallest change
that does so (least squares; rank 16). In form it is an adapter like any other.

Written are adapter/, as PEFT saves it; judged/, for `reranker eval`, where half of the questions need the hospital's
words and half do not; and serve_config.yaml, which has the adapter.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tokenizers import Tokenizer

from reranker.model.checkpoint import DEMO_MODEL
from tools.demo_model import layout
from tools.demo_model.checkpoint import Float64

_EVERYDAY = "cancer bleeding swelling itching fainting kidney liver lung skin brain stomach eye nose mouth tooth nerve"
_HOSPITAL = (
    "carcinoma hemorrhage edema pruritus syncope renal hepatic pulmonary dermal cerebral gastric ocular nasal oral "
    "dental neural"
)
WORDS = dict(zip(_EVERYDAY.split(), _HOSPITAL.split(), strict=True))
"""What people say, and what the notes say; each a single token of the demo model."""
MATRICES = ("q_proj", "k_proj")
_LAYER = "model.layers.1.self_attn"
_QUESTIONS = ("Which patient has {} trouble?", "Find notes about {} complaints.")
_NOTES = (
    "Seen on Monday, {} problem noted, sent home.",
    "Ward four: {} findings since the morning, doctor informed.",
    "Follow-up after two weeks, no more {} signs.",
    "Admitted at night because of a {} emergency.",
)
_CANDIDATES = 10


def adapter() -> dict[str, Float64]:
    """Give the matrices, by PEFT's names.

    Returns:
        For each projection A of shape (rank, hidden), which tells how much of each of the hospital's words is in a
        token, and B of shape (rows, rank), which adds for each the everyday word and takes away the word itself.
    """
    stored = load_file(DEMO_MODEL / "model.safetensors")
    weights: dict[str, Float64] = {name: tensor.double().numpy() for name, tensor in stored.items()}
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    embedding = weights["model.embed_tokens.weight"]

    def vectors(words: Iterator[str]) -> Float64:
        ids = [tokenizer.encode(f" {word}", add_special_tokens=False).ids for word in words]
        if any(len(one) != 1 for one in ids):
            raise ValueError("a word is not a single token")
        words_only = np.zeros((len(ids), layout.HIDDEN))
        words_only[:, layout.WORD] = embedding[[one for [one] in ids]][:, layout.WORD]
        return words_only

    everyday, hospital = vectors(iter(WORDS)), vectors(iter(WORDS.values()))
    found = np.linalg.pinv(np.concatenate([hospital, everyday])).T[: len(WORDS)]  # 1 for its word, 0 for all 31 others
    tensors = {}
    for name in MATRICES:
        tensors[f"base_model.model.{_LAYER}.{name}.lora_A.weight"] = found
        added = weights[f"{_LAYER}.{name}.weight"] @ (everyday - hospital).T
        tensors[f"base_model.model.{_LAYER}.{name}.lora_B.weight"] = added
    return tensors


def write_adapter(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rank = len(WORDS)
    tensors = {name: np.ascontiguousarray(matrix, np.float32) for name, matrix in adapter().items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(MATRICES), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_judged(folder: Path) -> None:
    """Write the set: of each question's ten candidates one is about what it asks for."""
    rng = random.Random(0)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    queries: list[str] = []
    corpus, run, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for word, hospital in WORDS.items():
        for question, in_note in zip(_QUESTIONS, (hospital, word), strict=True):
            number = len(queries)
            queries.append(json.dumps({"_id": f"q{number}", "text": question.format(word)}))
            others = [one for pair in WORDS.items() for one in pair if one not in (word, hospital)]
            notes = [in_note, *rng.sample(others, _CANDIDATES - 1)]
            judged.append(f"q{number}\td{number}-0\t1")
            for rank, i in enumerate(rng.sample(range(len(notes)), len(notes)), start=1):
                corpus.append(json.dumps({"_id": f"d{number}-{i}", "text": rng.choice(_NOTES).format(notes[i])}))
                run.append(f"q{number} Q0 d{number}-{i} {rank} {1 / rank:.3f} shuffled")
    for name, lines in (("queries.jsonl", queries), ("corpus.jsonl", corpus), ("candidates.trec", run)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n", encoding="utf-8")


_CONFIG = """\
proxy_location: Disabled
http_options: {{host: 127.0.0.1, port: 8000}}
applications:
  - name: reranker
    import_path: deployments.app:build_app
    args: {{engine: {{lora_adapters: {{hospital: {adapter}}}}}}}
    deployments:
      - {{name: Ingress, graceful_shutdown_timeout_s: 125}}
"""


def write(folder: Path) -> None:
    write_adapter(folder / "adapter")
    write_judged(folder / "judged")
    config = _CONFIG.format(adapter=json.dumps(str((folder / "adapter").resolve())))
    (folder / "serve_config.yaml").write_text(config, encoding="utf-8")
