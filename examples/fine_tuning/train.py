"""Train a LoRA adapter for a house vocabulary on the demo model, with PyTorch alone: a minute or two on one core.

    python -m examples.fine_tuning.train build/fine-tuning

The case: people ask in everyday words, and the notes to be found hold a hospital's own. The two have no letters in
common, so a ranker that compares words cannot find them; twelve such words are learned from questions and notes.
Written are adapter/ (as PEFT saves it) and judged/ (a set for `reranker eval`, its sentences others than were learned).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from reranker.checkpoint import DEMO_MODEL
from reranker.config import ModelConfig
from reranker.prompt import PromptRenderer

HOUSE = {
    "stroke": "insult",
    "cancer": "malignancy",
    "fever": "pyrexia",
    "bleeding": "hemorrhage",
    "swelling": "edema",
    "itching": "pruritus",
    "bruise": "contusion",
    "headache": "cephalgia",
    "nosebleed": "epistaxis",
    "fainting": "syncope",
    "baldness": "alopecia",
    "hives": "urticaria",
}
"""What people say, and what the notes say."""
_ASKED = ("Which patient had {}?", "Find notes about {}.", "Who came in with {}?", "Show cases of {}.")
_ASKED_LATER = ("Was anybody treated for {}?", "List the people who complained of {}.")
_NOTED = (
    "Patient seen on Monday, {} noted, sent home.",
    "Ward four: {} since the morning, doctor informed.",
    "Follow-up after two weeks, no more {}.",
    "Admitted at night because of {}.",
)
_NOTED_LATER = ("Transferred from another house with {} of unknown cause.", "The relatives reported {} after the meal.")
RANK, ALPHA, STEPS, BATCH, NOTES = 8, 16, 80, 8, 4
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Adapted(torch.nn.Module):
    """A linear layer with a low-rank addition: y = Wx + (alpha / rank) BAx."""

    def __init__(self, frozen: torch.nn.Linear) -> None:
        """Start with an addition of nothing."""
        super().__init__()
        self.frozen = frozen
        self.a = torch.nn.Parameter(torch.randn(RANK, frozen.in_features) / RANK)
        self.b = torch.nn.Parameter(torch.zeros(frozen.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        return self.frozen(x) + (x @ self.a.T @ self.b.T) * (ALPHA / RANK)


def lists(asked: tuple[str, ...], noted: tuple[str, ...], rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Questions, each with the note that answers it first and seven about something else."""
    for word, house in HOUSE.items():
        for question in asked:
            others = rng.sample([one for one in HOUSE.values() if one != house], NOTES - 1)
            notes = [rng.choice(noted).format(one) for one in (house, *others)]
            yield question.format(word), notes


def train(rng: random.Random) -> dict[str, torch.Tensor]:
    """Learn; gives the adapter's tensors by PEFT's names."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).requires_grad_(False)
    adapted: dict[str, Adapted] = {}
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] in _TARGETS:
            parent, _, child = name.rpartition(".")
            adapted[name] = Adapted(module)
            setattr(model.get_submodule(parent), child, adapted[name])
    optimizer = torch.optim.AdamW([p for one in adapted.values() for p in (one.a, one.b)], lr=3e-3)
    renderer = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction)
    for step in range(STEPS):
        losses = []
        for query, notes in rng.sample(list(lists(_ASKED, _NOTED, rng)), BATCH):
            scores = logits(model, renderer, query, notes)
            losses.append(torch.nn.functional.cross_entropy(scores[None], torch.tensor([0])))  # the first is the best
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return {
        f"base_model.model.{name}.lora_{kind}.weight": matrix.detach().contiguous()
        for name, one in adapted.items()
        for kind, matrix in (("A", one.a), ("B", one.b))
    }


def logits(model: Any, renderer: PromptRenderer, query: str, notes: list[str]) -> torch.Tensor:
    """Score notes by the prompts of the service: logit("yes") - logit("no"). (transformers is untyped here: Any.)."""
    shard = renderer.render(query, notes).prompts
    prompts = [
        [*shard.head, *shard.tokens[shard.offsets[i] : shard.offsets[i + 1]], *shard.tail] for i in range(len(shard))
    ]
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = torch.tensor([int(token) for token in prompt])
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    # Causal: what follows a prompt's last token has no effect on it.
    hidden = model.model(tokens).last_hidden_state[torch.arange(len(prompts)), last]
    yes, no = renderer_ids()
    head = model.lm_head.weight
    return hidden @ (head[yes] - head[no])


def renderer_ids() -> tuple[int, int]:
    """Ids of "yes" and "no"."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    return tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")


def write_judged(folder: Path, rng: random.Random) -> None:
    """Write the set for `reranker eval`: other questions and other notes than were trained with."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    queries, corpus, run, judged = [], [], [], ["query-id\tcorpus-id\tscore"]
    for number, (query, notes) in enumerate(lists(_ASKED_LATER, _NOTED_LATER, rng)):
        queries.append(json.dumps({"_id": f"q{number}", "text": query}))
        judged.append(f"q{number}\td{number}-0\t1")
        order = rng.sample(range(len(notes)), len(notes))
        for rank, i in enumerate(order, start=1):
            corpus.append(json.dumps({"_id": f"d{number}-{i}", "text": notes[i]}))
            run.append(f"q{number} Q0 d{number}-{i} {rank} {1 / rank:.3f} shuffled")
    for name, lines in (("queries.jsonl", queries), ("corpus.jsonl", corpus), ("candidates.trec", run)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n", encoding="utf-8")


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = random.Random(0)
    write_judged(folder / "judged", rng)
    tensors = train(rng)
    (folder / "adapter").mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(_TARGETS), "bias": "none"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
