"""Does it work on the card that is here, and how fast? One command, one page, one JSON to send back.

    make gpu-proof                       on a machine with an NVIDIA GPU
    make gpu-proof PROOF=--dry-run       without one: what needs a card runs against the emulation of benchmarks.loop
    make gpu-proof PROOF="--only start"  some parts; --list names them

It is cut into parts of ten minutes at most. What is done is kept: interrupted, the same command goes on where it was,
and tries again what failed. Writes build/gpu-proof/{proof.json,page.md}, and a log for each part beside them.
"""

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import models, results, service
from benchmarks.load import LoadGenerator
from benchmarks.results import SCRATCH, say
from benchmarks.serving.__main__ import CHECKED_PEER, SWEEP
from benchmarks.serving.systems import OURS, PEER, Bench
from benchmarks.serving.workloads import PACES, workload
from benchmarks.texts import TextList
from reranker.config import EngineConfig, RerankerConfig
from reranker.engine import cards
from reranker.engine.device import Gpu, Machine, here
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer

LIMIT_S, _STOP_S = 540, 60  # together ten minutes
ROUNDS = 3
FP8 = "engine.quantization=fp8_per_channel"
_WORKLOADS, _SWEPT = "1x1,20x16,1000x1,mixed,text", "20x16,1000x1"
_PARITY = (("demo", "float32"), ("demo", "auto"), ("0.6b", "bfloat16"))
_EMULATED = "H100"
_QUESTIONS = {
    "start": "Does the service start with the demo model, and rank?",
    "parity": "Does the engine score as Transformers does (float32, on the CPU)?",
    "serve": "Beside `vllm serve`: same model, card and client, in turns",
    "sweep": "One setting changed, beside the defaults",
    "fp8": "FP8 beside the defaults",
    "tensor-parallel": "One model over two GPUs, beside one",
    "replicas": "Two replicas, a GPU each, beside one",
}


class Part(NamedTuple):
    """A piece of work of its own process. Its name is one of the questions', and more."""

    name: str
    command: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


def parts(gpus: Sequence[Gpu], folder: Path, *, dry: bool) -> Iterator[Part]:
    """All that there is to do on such a machine. Dry: with a small model on the CPU, and for settings the emulation."""
    own = (sys.executable, "-m", "benchmarks.proof", "--part")
    yield Part("start", (*own, "start"))
    for shape, dtype in _PARITY:
        yield Part(f"parity {shape} {dtype}", (*own, "parity", "nano" if dry and shape != "demo" else shape, dtype))
    for number in range(1, (1 if dry else ROUNDS) + 1):
        peer = CHECKED_PEER if dry else PEER  # to compile for a CPU takes it minutes
        order = (OURS, peer) if number % 2 else (peer, OURS)
        yield _beside(f"serve {number}", order, folder, dry=dry, workloads=_SWEPT if dry else _WORKLOADS)
    for setting in SWEEP:
        yield _tried("sweep", setting, folder, dry=dry)
    if all(gpu.capability >= cards.FP8_CAPABILITY for gpu in gpus):
        yield _tried("fp8", FP8, folder, dry=dry)
    if len(gpus) > 1:
        yield _beside("tensor-parallel", (OURS, f"{OURS}:engine.tensor_parallel_size=2"), folder, dry=dry)
        yield Part("replicas", (*own, "replicas"))


def _beside(name: str, systems: Sequence[str], folder: Path, *, dry: bool, workloads: str = _SWEPT) -> Part:
    what = ("--shapes", "nano" if dry else "0.6b", "--rounds", "1", "--systems", ",".join(systems))
    out = ("--workloads", workloads, "--out", str(_out(folder, name)), *(["--quick"] if dry else []))
    return Part(name, (sys.executable, "-m", "benchmarks.serving", *what, *out))


def _tried(kind: str, setting: str, folder: Path, *, dry: bool) -> Part:
    name = f"{kind} {setting}"
    if not dry:
        return _beside(name, (OURS, f"{OURS}:{setting}"), folder, dry=dry)
    emulated = ("--engine", setting, "--card", _EMULATED, "--out", str(_out(folder, name)))
    return Part(name, (sys.executable, "-m", "benchmarks.loop", *emulated))


def _out(folder: Path, name: str) -> Path:
    return folder / f"{service.file_name(name)}.json"


class Proof:
    """What is known so far, in a folder."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """Take up what an earlier run of the same commit on the same cards has left there; else begin."""
        self.path, self.folder = folder / "proof.json", folder
        old = results.read(self.path)
        same = all(old.get(key) == header[key] for key in ("dry_run", "cards")) and _commit(old) == _commit(header)
        if old and not same:
            kept = self.path.rename(folder / f"proof-{int(time.time())}.json")
            say(f"that was another commit or card: kept as {kept.name}, all is done anew")
        self.content: dict[str, Any] = old if same else header | {"parts": {}}

    def missing(self, every: Sequence[Part]) -> list[Part]:
        return [part for part in every if self.content["parts"].get(part.name, {}).get("status") != "done"]

    def run(self, part: Part, limit_s: float = LIMIT_S) -> bool:
        """Do a part and write down what came of it; whether it is done. Whoever is interrupted loses this part only."""
        log, out, began_s = (
            self.folder / f"{service.file_name(part.name)}.log",
            _out(self.folder, part.name),
            time.time(),
        )
        out.unlink(missing_ok=True)
        status = _run(part.command, log, limit_s)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = list(dict.fromkeys([*(line for line in lines if line.startswith("= ")), *lines[-3:]]))
        found = {"status": status, "took_s": round(time.time() - began_s), "command": " ".join(part.command)}
        self.content["parts"][part.name] = found | {"said": said, "found": _figures(results.read(out))}
        results.write(self.path, self.content)
        (self.folder / "page.md").write_text(page(self.content), encoding="utf-8")
        return status == "done"


def _commit(content: dict[str, Any]) -> Any:  # Any: JSON
    return content.get("run", {}).get("commit")


def _run(command: Sequence[str], log: Path, limit_s: float) -> str:
    """Run a command to its end or the limit; it and all it started are gone then."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"not done within {limit_s:g} s"
    finally:
        process.terminate()  # it ends what it has started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return "done" if code == 0 else f"failed with status {code}"


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """What the page needs of a result's JSON: of `benchmarks.serving`, or of `benchmarks.loop`."""
    if not found.get("summary"):
        return {"rows": found["rows"]} if "rows" in found else {}
    keep = ("pairs_per_s", "tokens_per_s", "cpu_ms_per_pair", "gpu_busy")
    differences = {
        name: one["agreement"]["largest_difference"] for name, one in found["systems"].items() if one["agreement"]
    }
    workloads = {
        name: {
            system: {key: (one[key] or {}).get("median") for key in keep}
            | {
                f"p{percent}_ms": next(iter(one["latency_ms"].values()))["pooled"][f"p{percent}"]
                for percent in (50, 99)
            }
            for system, one in systems.items()
        }
        for name, systems in found["summary"].items()
    }
    return {"workloads": workloads, "largest_difference_of_scores": differences, "skipped": found["skipped"]}


def page(content: dict[str, Any]) -> str:
    """All of it for people."""
    run = content["run"]
    lines = [f"# GPU proof{': a dry run, and no figure is a GPU’s' * content['dry_run']}", ""]
    lines += [f"{run['date']}, commit {run['commit']}; {run['machine']['cpu']}, {run['machine']['cores']} cores."]
    lines += [f"{', '.join(content['cards'])}. {', '.join(run['machine']['gpus'])}", ""]
    lines += [f"- {line}" for line in content["settings"]]
    lines += [f"- {name} {version}" for name, version in run["versions"].items()]
    kinds = dict.fromkeys(name.partition(" ")[0] for name in content["parts"])
    for kind in kinds:
        mine = {name: one for name, one in content["parts"].items() if name.partition(" ")[0] == kind}
        lines += ["", f"## {_QUESTIONS[kind]}", ""]
        lines += [f"- {name}: {one['status']}, {one['took_s']} s" for name, one in mine.items()]
        done = {name: one for name, one in mine.items() if one["status"] == "done"}
        lines += ["", *_compared(done), *_emulated(done)]
        for name, one in mine.items():
            if not one["found"]:
                lines += [f"{name}:", "", "```", *one["said"], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _compared(mine: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table of systems beside each other: medians of the rounds, and of their ratios to the peer or the defaults."""
    mine = {name: one for name, one in mine.items() if "workloads" in one["found"]}
    if not mine:
        return
    figures = ("pairs_per_s", "p50_ms", "p99_ms", "gpu_busy")
    yield "| part | documents x clients | system | pairs/s | p50, ms | p99, ms | GPU busy | ratio | scores differ by |"
    yield "|---|---|---|---|---|---|---|---|---|"
    rounds = {name: name.rpartition(" ")[0] if name.startswith("serve") else name for name in mine}
    for part in dict.fromkeys(rounds.values()):
        found = [one["found"] for name, one in mine.items() if rounds[name] == part]
        for work, systems in found[0]["workloads"].items():
            base = next((one for one in systems if one.startswith(PEER)), OURS)
            for system in systems:
                each = [one["workloads"][work][system] for one in found]
                cells = [_middle([one[key] for one in each]) for key in figures]
                bases = [one["workloads"][work][base]["pairs_per_s"] for one in found]
                cells.append(_middle([one["pairs_per_s"] / of for one, of in zip(each, bases, strict=True)]))
                apart = max((one["largest_difference_of_scores"].get(system, 0.0) for one in found), default=0.0)
                yield f"| {part} | {work} | {system} | {' | '.join(cells)} | {apart:.2g} |"


def _middle(values: Sequence[float | None]) -> str:
    known = [one for one in values if one is not None]
    return f"{statistics.median(known):,.4g}" if known else ""


def _emulated(mine: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = {name: one["found"]["rows"][0] for name, one in mine.items() if one["found"].get("rows")}
    if rows:
        yield "| part, emulated | pairs/s | card busy | engine thread, µs a pair | a step, ms |"
        yield "|---|---|---|---|---|"
    for name, row in rows.items():
        figures = " | ".join(str(row[key]) for key in ("pairs_per_s", "busy", "host_us_per_pair", "step_ms"))
        yield f"| {name} | {figures} |"


# What a part does in its own process. Lines that begin with "= " are for the page.


def _start() -> int:
    began_s = time.monotonic()
    documents = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]
    with service.running({}, 1, simulated=False, name="gpu-proof") as server:
        print(f"= started in {time.monotonic() - began_s:.0f} s")
        scores, _ = server.scores(TextList("What is the capital of China?", documents))
        for line in server.log.read_text(encoding="utf-8", errors="replace").splitlines():
            for mark in ("vLLM has started: ", "settings of "):
                if mark in line:
                    print(f"= {line[line.index(mark) :]}")
    print("= scores", *(f"{one:.4f}" for one in scores))
    return int(scores.index(max(scores)) != 1)


def _parity(shape: str, dtype: str) -> int:
    """As `reranker verify`, which refuses random weights: here they agree if they do in a tenth of their own spread."""
    from deployments.cli import rankers
    from reranker.offline import verification
    from reranker.offline.reference import open_reference, use_all_cores

    model = "demo" if shape == "demo" else str(models.checkpoint(shape))
    config = RerankerConfig.model_validate({"model": {"name": model, "dtype": dtype}})
    checkpoint = find_checkpoint(config.model)
    renderer = PromptRenderer.of(checkpoint, config.model, few=True)
    texts = verification.with_room(renderer, verification.texts(quick=True))
    with rankers.open_local(config) as local:
        found = asyncio.run(verification.engine_pairs(local.engine, renderer, texts))
        most = local.tolerance
    use_all_cores()
    library = open_reference(checkpoint.name, checkpoint.revision, checkpoint.folder, checkpoint.family.name)
    scores = verification.reference_scores(library, renderer, texts, model, "", int)
    both = [pair for kind, own in scores.pairs.items() for pair in zip(found[kind], own, strict=True)]
    other_ids = sum(one.ids != other.ids for one, other in both)
    ours, theirs = (np.array([pair[side].logit for pair in both], dtype=float) for side in (0, 1))
    apart, spread = float(np.abs(ours - theirs).max()), float(np.ptp(theirs))
    most = min(most, spread / 10)
    print(f"= {shape}, {dtype}, beside {scores.made_by}: {len(both)} pairs, {other_ids} with other token ids")
    print(f"= logits differ by up to {apart:.2g} (allowed: {most:.2g}) and are spread over {spread:.2g}")
    return int(other_ids > 0 or not apart <= most)  # NaN is more


def _replicas() -> int:
    bench, work = Bench("0.6b"), workload("20x16", "0.6b")
    args = {"model": {"name": str(bench.folder)}, "engine": {"startup_check": False}, "cache": {"enabled": False}}
    with LoadGenerator() as generator:
        for count in (1, 2):
            with service.running(args, count, simulated=False, name=f"replicas-{count}") as server:
                for seed in ("warm-up", "measured"):
                    pace = PACES["0.6b"].max_pairs_per_s
                    load = generator.run(server.url, server.launch.protocol, work, seed, pace)
                print(f"= {count}: {load['pairs'] / load['elapsed_s']:,.0f} pairs/s, {load['failures']} failures")
    return 0


_OWN: dict[str, Callable[..., int]] = {"start": _start, "parity": _parity, "replicas": _replicas}


def main() -> int:
    """Do what is missing; exit status 1 if a part is not done, 2 without a card."""
    options = results.parser(__doc__)
    options.add_argument("--dry-run", action="store_true", help="without a card")
    options.add_argument("--only", nargs="+", metavar="NAME", help="parts whose names begin so")
    options.add_argument("--list", action="store_true", help="only name the parts that are missing")
    options.add_argument("--part", nargs="+", help="do a part in this process (what each part's command says)")
    arguments = options.parse_args()
    if arguments.part:
        return _OWN[arguments.part[0]](*arguments.part[1:])
    machine = Machine("cuda", gpus=(cards.CARDS[_EMULATED],)) if arguments.dry_run else here()
    if not machine.gpus:
        print(f"no card here ({machine.trouble}); PROOF=--dry-run shows what would be done", file=sys.stderr)
        return 2
    folder = SCRATCH.parent / ("gpu-proof-dry" if arguments.dry_run else "gpu-proof")
    folder.mkdir(parents=True, exist_ok=True)
    size = cards.size_of_shape(models.SHAPES["0.6b"].config, "bfloat16")
    header = {
        "dry_run": arguments.dry_run,
        "cards": [gpu.name for gpu in machine.gpus],
        "run": results.describe(),
        "settings": list(cards.described(EngineConfig(), cards.smallest(machine.gpus), size)),
    }
    every = list(parts(machine.gpus, folder, dry=arguments.dry_run))
    if arguments.only:
        every = [part for part in every if part.name.startswith(tuple(arguments.only))]
    proof = Proof(folder, header)
    missing = proof.missing(every)
    say(f"{len(every) - len(missing)} of {len(every)} parts are done")
    for part in missing:
        say(f"{part.name}{'' if arguments.list else ' …'}")
        if not arguments.list:
            say(f"{part.name}: {'done' if proof.run(part) else proof.content['parts'][part.name]['status']}")
    say(f"{folder / 'page.md'} and proof.json are what to send back")
    return int(bool(proof.missing(every)))


if __name__ == "__main__":
    raise SystemExit(main())
