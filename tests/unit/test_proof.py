"""`make gpu-proof`: which parts a machine gets, what an interruption costs, and what the page says."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import proof, results
from benchmarks.proof import Part, Proof, page, parts
from deployments.cli import rankers
from reranker.engine.cards import CARDS
from reranker.offline import reference, verification
from reranker.offline.reference import Inputs
from reranker.offline.verification import Pair, Texts

HEADER: dict[str, Any] = {
    "dry_run": True,
    "cards": ["NVIDIA H100"],
    "settings": ["engine.max_batch_tokens: 16384"],
    "run": {
        "commit": "c0ffee",
        "date": "2026-11-29",
        "machine": {"cpu": "a CPU", "cores": 2, "gpus": []},
        "versions": {"vllm": "0.32.0"},
    },
}


def _part(name: str, code: str) -> Part:
    return Part(name, (sys.executable, "-c", code))


def test_cards_decide_which_parts_there_are(tmp_path: Path) -> None:
    def kinds(*names: str) -> set[str]:
        return {part.kind for part in parts([CARDS[name] for name in names], tmp_path, dry=False)}

    assert kinds("A100") == {"start", "parity", "serve", "sweep"}
    assert kinds("H100") == kinds("A100") | {"fp8"}
    assert kinds("L4", "L4") == set(proof._QUESTIONS)


def test_rounds_beside_the_peer_begin_in_turns(tmp_path: Path) -> None:
    serve = [part.command for part in parts([CARDS["H100"]], tmp_path, dry=False) if part.kind == "serve"]
    orders = [command[command.index("--systems") + 1] for command in serve]
    assert orders == ["ours,vllm-serve", "vllm-serve,ours", "ours,vllm-serve"]


def test_dry_run_has_a_part_for_each_of_one_card_and_needs_none(tmp_path: Path) -> None:
    real, dry = (list(parts([CARDS["H100"]], tmp_path, dry=one)) for one in (False, True))
    assert {part.name for part in dry} <= {part.name for part in real}
    assert {part.kind for part in dry} == {part.kind for part in real}
    assert not any("0.6b" in part.command for part in dry)


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    mark = f"open({str(marks)!r}, 'a').write('x');"
    every = [_part("start", f"{mark}print('= started in 3 s')"), _part("parity demo", f"{mark}raise SystemExit(3)")]
    first = Proof(tmp_path, HEADER)
    assert [first.run(part) for part in first.missing(every)] == [True, False]
    again = Proof(tmp_path, HEADER)
    assert [part.name for part in again.missing(every)] == ["parity demo"]
    again.run(every[1])
    assert marks.read_text() == "xxx"
    said = (tmp_path / "page.md").read_text()
    assert "started in 3 s" in said
    assert "parity demo: failed with status 3" in said
    assert "no figure is a GPU’s" in said


@pytest.mark.parametrize("change", [{"run": HEADER["run"] | {"commit": "beef"}}, {"cards": ["NVIDIA L4"]}])
def test_another_commit_or_card_begins_anew_and_throws_nothing_away(tmp_path: Path, change: dict[str, Any]) -> None:
    one = _part("start", "")
    Proof(tmp_path, HEADER).run(one)
    assert Proof(tmp_path, HEADER | change).missing([one]) == [one]
    assert len(list(tmp_path.glob("proof-*.json"))) == 1


def test_part_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    slow = _part("start", f"{child}; time.sleep(60)")
    begun = Proof(tmp_path, HEADER)
    assert not begun.run(slow, limit_s=0.5)
    assert begun.content["parts"]["start"]["status"] == "not done within 0.5 s"
    assert begun.content["parts"]["start"]["took_s"] < 30


def test_page_has_what_other_benchmarks_write(tmp_path: Path) -> None:
    """Their committed results are of the form that the parts leave behind."""
    begun = Proof(tmp_path, HEADER)
    for name, file in (("serve 1", "serving-nano.json"), ("sweep engine.max_batch_tokens=2048", "loop.json")):
        source, out = results.RESULTS / file, proof._out(tmp_path, name)
        copy = f"import shutil; shutil.copy({str(source)!r}, {str(out)!r})"
        assert begun.run(_part(name, copy))
    said = page(begun.content)
    measured = results.read(results.RESULTS / "serving-nano.json")["summary"]["20x16"]
    rates = {system: one["pairs_per_s"]["median"] for system, one in measured.items()}
    assert f"| serve | 20x16 | vllm-serve | {rates['vllm-serve']:,.4g} | " in said
    [ours] = [line for line in said.splitlines() if line.startswith("| serve | 20x16 | ours |")]
    assert ours.split("|")[8].strip() == f"{rates['ours'] / rates['vllm-serve']:.4g}"
    assert "| sweep engine.max_batch_tokens=2048 | " in said


def test_machine_without_a_card_is_told_of_the_dry_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/proof.py"])
    assert proof.main() == 2
    assert "--dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("apart", "other_id", "status"), [(0.0, 0, 0), (0.005, 0, 0), (0.2, 0, 1), (float("nan"), 0, 1), (0.0, 1, 1)]
)
def test_parity_is_of_token_ids_and_of_logits_within_a_tenth_of_their_spread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], apart: float, other_id: int, status: int
) -> None:
    """The library gives every prompt a logit of its own, spread over a few tenths; the engine the same, and `apart`."""

    class Library:
        name, tokenizer = "a library", SimpleNamespace(added_tokens_decoder={}, unk_token_id=None)

        def inputs(self, query: str, document: str, instruction: str | None) -> Inputs:
            return Inputs([len(query), len(document)], None)

        def logit(self, inputs: Inputs) -> float:
            return sum(inputs.ids) % 7 / 10

    async def engine_pairs(_: object, __: object, texts: Texts) -> dict[str, list[Pair]]:
        made = {
            kind: [Library().inputs(query, one, None) for one in documents]
            for kind, (query, documents) in texts.items()
        }
        return {
            kind: [Pair(ids=[one.ids[0], one.ids[1] + other_id], logit=Library().logit(one) + apart) for one in each]
            for kind, each in made.items()
        }

    monkeypatch.setattr(rankers, "open_local", lambda _: nullcontext(SimpleNamespace(engine=None, tolerance=0.5)))
    monkeypatch.setattr(verification, "engine_pairs", engine_pairs)
    monkeypatch.setattr(reference, "open_reference", lambda *_: Library())
    monkeypatch.setattr(reference, "use_all_cores", lambda: None)
    assert proof._parity("demo", "float32") == status
    said = capsys.readouterr().out
    assert "= demo, float32, beside a library: 26 pairs" in said
    assert "(allowed: 0.06)" in said
