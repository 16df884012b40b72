"""`reranker verify`: does the engine score as the model's own library does, on texts of every kind?"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from deployments.cli import Subparsers, rankers
from deployments.cli.config import SERVE_CONFIG, machine_cores
from reranker.config import RerankerConfig
from reranker.engine.device import device_for
from reranker.engine.vllm import environment
from reranker.errors import CommandError, RerankerError
from reranker.model import verified
from reranker.model.checkpoint import Checkpoint, find_checkpoint, model_identity, vllm_distribution, weights_digest
from reranker.model.prompt import PromptRenderer
from reranker.offline import verification
from reranker.offline.reference import Reference, open_reference, use_all_cores
from reranker.offline.verification import CONTROL, ReferenceScores, Texts


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify",
        help="compare token ids and scores with those of the model's own library",
        description="Score a fixed set of texts with the engine and with Sentence Transformers or Transformers, and "
        "say whether they agree. The verdict is kept, and shown in the service's GET /v1/models.",
    )
    parser.add_argument("model", nargs="?", help="demo, a local folder or a hub id; default: the configuration's")
    said = f"Serve configuration of the service; default: ./{SERVE_CONFIG} if there"
    parser.add_argument("--config", type=Path, help=said)
    reference = parser.add_mutually_exclusive_group()
    said = "compare with this file in place of the library, which then need not be here"
    reference.add_argument("--reference", type=Path, metavar="FILE", help=said)
    said = "only write that file: on a machine that can hold the model in float32; needs no vLLM and no GPU"
    reference.add_argument("--write-reference", type=Path, metavar="FILE", help=said)
    parser.add_argument("--quick", action="store_true", help="without the texts of 6,000 and 24,000 words")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Print a line for each kind of text, and the verdict; the exit status is 1 where they differ."""
    config = rankers.local_config(parsed)
    if config.engine.simulated is not None or config.engine.lora_adapter is not None:
        raise CommandError("only a model itself can be verified: without engine.simulated and engine.lora_adapter")
    checkpoint = find_checkpoint(config.model)
    renderer = PromptRenderer.of(checkpoint, config.model, few=True)
    everything = verification.texts(quick=parsed.quick)
    texts = verification.with_room(renderer, everything)
    if left_out := [kind for kind in everything if kind not in texts]:
        print(f"left out, as a pair has {checkpoint.max_pair_tokens:,} tokens at most: {'; '.join(left_out)}")
    # Before torch, which the libraries load, too: an engine's threads are set as it loads.
    os.environ.update(environment(machine_cores(), config.engine.cpu_threads) | dict(os.environ))
    weights = weights_digest(checkpoint)
    of = checkpoint.served_name, weights
    if parsed.write_reference is not None:
        scores = _reference_scores(_open(checkpoint), renderer, texts, *of)
        verification.write_reference(parsed.write_reference, scores)
        print(f"{checkpoint.served_name} by {scores.made_by}: written to {parsed.write_reference}")
        return 0
    read = None if parsed.reference is None else verification.read_reference(parsed.reference)
    library = _open(checkpoint) if read is None else None  # what it refuses, it refuses before an engine has loaded
    ours, tolerance, identity, engine = _engine_pairs(config, checkpoint, texts)
    scores = read or _reference_scores(library, renderer, texts, *of)
    against = scores.made_by
    if scores.weights != weights:
        against += f", of {scores.model}"
        print(f"the reference is of other files than this model's: of {scores.model}, {scores.date}")
    verdict = verification.compare(ours, scores, tolerance)
    for row in verdict.rows:
        print(f"{'failed' if row.failed else 'ok':<6}  {row.kind:<24}  {row.measured}")
    if missing := [kind for kind in ours if kind not in scores.pairs and kind != CONTROL]:
        print(f"not in the reference: {'; '.join(missing)}")
    found = verification.found(verdict, against, engine)
    try:
        verified.keep(identity, found)
    except OSError as error:
        print(f"the verdict is not kept for GET /v1/models: {error.strerror}", file=sys.stderr)
    print(verification.in_words(verdict, checkpoint.served_name, against, engine, tolerance))
    return 0 if found["passed"] else 1


def _open(checkpoint: Checkpoint) -> Reference:
    try:
        return open_reference(checkpoint.name, checkpoint.revision, checkpoint.folder, checkpoint.family.name)
    except Exception as error:
        raise _of_library(error) from error


def _reference_scores(
    library: Reference | None, renderer: PromptRenderer, texts: Texts, model: str, weights: str
) -> ReferenceScores:
    assert library is not None  # noqa: S101 - for the type checker
    use_all_cores()
    documents = sum(len(documents) for _, documents in texts.values())
    try:
        with rankers.progress(documents) as advance:
            return verification.reference_scores(library, renderer, texts, model, weights, advance)
    except Exception as error:
        raise _of_library(error) from error


def _of_library(error: Exception) -> RerankerError:
    """What a library raises, in one sentence; any can be raised there."""
    if isinstance(error, RerankerError):
        return error
    first_line = (str(error).splitlines() or [""])[0]
    return CommandError(f"the model's own library cannot score with it: {type(error).__name__}: {first_line}")


def _engine_pairs(
    config: RerankerConfig, checkpoint: Checkpoint, texts: Texts
) -> tuple[dict[str, list[verification.Pair]], float, str, str]:
    """Score here; gives the pairs, by how much a logit may differ, and the identity and the name of what scored."""
    if sys.stderr.isatty():
        print(f"loading {config.model.name} …", file=sys.stderr, flush=True)
    device = device_for(config.engine, checkpoint.dtype_on("cuda"))
    with rankers.open_local(config) as local:
        ours = asyncio.run(verification.engine_pairs(local.engine, local.renderer, texts))
        identity = model_identity(checkpoint, config.engine, device, local.renderer.fingerprint)
    build = vllm_distribution()
    numbers = config.engine.quantization or checkpoint.dtype_on(device)
    name = f"vLLM {build.version if build else ''}, {numbers} on {device}"
    return ours, local.tolerance, identity, name
