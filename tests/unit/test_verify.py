"""`reranker verify` with both sides made up: what is right passes, and each wrong thing is named for what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from transformers import AutoTokenizer

from deployments.cli import rankers, verify
from deployments.cli.main import main
from reranker.config import ModelConfig, RerankerConfig
from reranker.engine.loop import Engine
from reranker.errors import CommandError, InputFileError
from reranker.model import verified
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint
from reranker.model.families import PREFIX, PromptTemplate
from reranker.model.prompt import PromptRenderer
from reranker.offline import verification
from reranker.offline.reference import Inputs, TransformersReference
from reranker.types import FloatArray, Shard
from tests.model_card import CardTokenizer
from tests.unit.doors import WordBackend, door, visitor
from tests.zoo import BY_NAME, model_of, save_small_files

Change = Callable[[FloatArray], FloatArray]


class MadeUp(TransformersReference):
    """A model's prompts as Transformers makes them, and a logit that every token changes: no weights."""

    def __init__(self, folder: Path = DEMO_MODEL, family: str | None = None) -> None:
        super().__init__(str(folder), None, folder, family)

    def logit(self, inputs: Inputs) -> float:
        return _logit(inputs.ids)


@functools.cache
def _demo() -> MadeUp:
    return MadeUp()


def _logit(ids: Sequence[int]) -> float:
    return float(np.sin(np.arange(len(ids)) % 7 + np.asarray(ids)).sum() % 10 - 5)


class MadeUpEngine(Engine):
    """Gives the same logits; `change` makes what it answers of them."""

    def __init__(self, change: Change = lambda logits: logits) -> None:
        self._change = change

    async def score(self, shard: Shard) -> FloatArray:
        documents = (shard.tokens[a:b] for a, b in zip(shard.offsets, shard.offsets[1:], strict=False))
        logits = [_logit([*shard.head, *one, *shard.tail]) for one in documents]
        return self._change(np.array(logits, dtype=np.float32))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # no configuration is here
    return tmp_path / "reranker" / "verified"


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the command opens in place of vLLM and of the library's weights."""

    def opens(change: Change = lambda logits: logits, prompt: str | None = None, tolerance: float = 0.01) -> None:
        @contextlib.contextmanager
        def open_local(config: RerankerConfig) -> Iterator[rankers.LocalReranker]:
            checkpoint = find_checkpoint(config.model)
            if prompt is not None:
                checkpoint = dataclasses.replace(
                    checkpoint, family=dataclasses.replace(checkpoint.family, prompt=prompt)
                )
            renderer = PromptRenderer.of(checkpoint, config.model, few=True)
            yield rankers.LocalReranker(checkpoint, renderer, MadeUpEngine(change), tolerance)

        monkeypatch.setattr(rankers, "open_local", open_local)
        monkeypatch.setattr(verify, "open_reference", lambda *_: _demo())
        monkeypatch.setattr(verify, "environment", lambda *_: {})
        monkeypatch.setattr(verify, "use_all_cores", lambda: None)

    opens()
    return opens


def _last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().rpartition("\n")[2]


@pytest.mark.usefixtures("local")
def test_engine_that_scores_as_its_library_is_verified(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert main(["verify", "demo", "--quick"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("verified: demo scores as Transformers ")
    assert "28 pairs of 15 kinds, token ids equal, logits within " in out
    assert out.count("ok  ") == 15
    [file] = cache.iterdir()
    found = json.loads(file.read_text())
    assert (found["passed"], found["pairs"]) == (True, 28)
    assert found["largest_difference"] < 1e-5
    assert found["against"].endswith("prompts by the checkpoint's chat template")


_QWEN = find_checkpoint(ModelConfig()).family.prompt or ""
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "answer swapped": ({"change": lambda logits: -logits}, "the answer is swapped: every logit has the other sign"),
    "scale of another family": (
        {"change": lambda logits: logits / 5},
        "the scale is another: the engine's logits are 0.2 times",
    ),
    "shifted": ({"change": lambda logits: logits + 1}, "the engine's logits are 1 times the reference's +1 ("),
    "no numbers": ({"change": lambda logits: logits * np.float32(np.nan)}, "scores are no numbers in English, code"),
    "noise": ({"change": lambda logits: logits.round()}, "logits may differ by 0.01, and do by up to 0.5"),
    "everything alike": ({"change": lambda logits: logits * 0}, "logits may differ by 0.01, and do by up to "),
    "a line more": (  # the demo model's tokenizer keeps no white space
        {"prompt": _QWEN.replace("\n<Query>", "\n:\n<Query>")},
        "the prompts are not the model's: token ids differ in every kind",
    ),
    "system text missing": (
        {"prompt": _QWEN.replace(PREFIX, "<|im_start|>user\n")},
        "the prompts are not the model's: token ids differ in every kind",
    ),
    "suffix lost": ({"prompt": _QWEN.partition("<|im_end|>\n<|im_start|>assistant")[0]}, "the prompts are not"),
}


@pytest.mark.parametrize(("opened", "said"), WRONG.values(), ids=WRONG)
def test_wrong_engine_is_not_verified_and_the_verdict_says_why(
    local: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    opened: dict[str, Any],
    said: str,
) -> None:
    local(**opened)
    assert main(["verify", "demo", "--quick"]) == 1
    last = _last_line(capsys)
    assert last.startswith("not verified: ")
    assert said in last
    [file] = cache.iterdir()
    assert json.loads(file.read_text())["passed"] is False


def test_texts_of_one_kind_that_are_encoded_otherwise_are_named_by_their_kind_only(
    local: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local()
    documents = PromptTemplate.documents
    monkeypatch.setattr(
        PromptTemplate, "documents", lambda self, texts: documents(self, [one.replace("🎂", "") for one in texts])
    )
    assert main(["verify", "demo", "--quick"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("not verified: token ids differ in emoji (another tokenizer")
    every = (text for query, documents in verification.texts().values() for text in (query, *documents))
    assert not any(text in out for text in every if len(text) > 5)


def test_text_that_becomes_a_control_token_is_not_verified(
    local: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local()
    monkeypatch.setattr(
        "reranker.model.families._tokenizers",
        lambda folder: (AutoTokenizer.from_pretrained(folder).backend_tokenizer,) * 2,
    )
    assert main(["verify", "demo", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "failed  control tokens            a text becomes a control token" in out
    assert "a document could speak for the template" in out.splitlines()[-1]


# Transformers puts Qwen2's own rules in place of the small tokenizer's, and the whole one takes long.
@pytest.mark.parametrize("name", [name for name, one in BY_NAME.items() if "Qwen2" not in one.architecture])
async def test_every_familys_ids_are_those_of_transformers_in_every_kind_of_text(name: str, tmp_path: Path) -> None:
    """So a verdict of other ids is of the model; these are the files of tiny checkpoints, without weights."""
    folder = tmp_path / name
    folder.mkdir()
    save_small_files(name, folder)
    model = model_of(folder, name)
    checkpoint = find_checkpoint(model)
    renderer = PromptRenderer.of(checkpoint, model, few=True)
    texts = verification.with_room(renderer, verification.texts(quick=True))
    assert len(texts) >= 13  # without the long ones
    ours = await verification.engine_pairs(MadeUpEngine(), renderer, texts)
    library = MadeUp(folder, checkpoint.family.name)
    theirs = verification.reference_scores(library, renderer, texts, name, "")
    assert [row for row in verification.compare(ours, theirs, 0.01).rows if row.failed] == []


def test_reference_prompts_a_qwen3_reranker_without_a_template_as_its_card_does(tmp_path: Path) -> None:
    """Where nothing says how a model is prompted, and it is another's, there is nothing to compare with."""
    save_small_files("qwen3-reranker", tmp_path)
    for file in ("chat_template.jinja", "modules.json", "sentence_bert_config.json"):
        (tmp_path / file).unlink()
    library = MadeUp(tmp_path, "qwen3-reranker")
    assert library.name.endswith("prompts by the code of Qwen3-Reranker's card")
    card = CardTokenizer(tmp_path)
    assert library.inputs("q", " d", "i").ids == card.ids("i", "q", " d", literal=False)
    assert library.answer == (card.no_id, card.yes_id)
    with pytest.raises(CommandError, match="no template for a query and a document"):
        MadeUp(tmp_path, "zerank")


@pytest.mark.usefixtures("local")
def test_reference_that_scores_everything_alike_proves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}._logit", lambda ids: 0.5)
    assert main(["verify", "demo", "--quick"]) == 1
    assert "scores everything alike" in _last_line(capsys)


def test_reference_file_is_compared_where_the_library_is_not(
    local: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: object) -> None:
        raise AssertionError("the library is asked for")

    opens = rankers.open_local
    monkeypatch.setattr(rankers, "open_local", nowhere)  # the writer needs no engine
    assert main(["verify", "demo", "--write-reference", "ref.json"]) == 0
    assert _last_line(capsys).endswith("written to ref.json")
    monkeypatch.setattr(rankers, "open_local", opens)
    monkeypatch.setattr(verify, "open_reference", nowhere)
    assert main(["verify", "demo", "--quick", "--reference", "ref.json"]) == 0
    assert "verified: demo scores as Transformers" in _last_line(capsys)
    local(lambda logits: -logits)
    assert main(["verify", "demo", "--quick", "--reference", "ref.json"]) == 1
    assert "the answer is swapped" in _last_line(capsys)


@pytest.mark.usefixtures("local")
def test_reference_of_other_weights_is_said_to_be_so(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    """As where a quantized copy is compared with the original."""
    assert main(["verify", "demo", "--quick", "--write-reference", "ref.json"]) == 0
    written = json.loads(Path("ref.json").read_text())
    Path("ref.json").write_text(json.dumps(written | {"weights": "0", "model": "the-original"}))
    assert main(["verify", "demo", "--reference", "ref.json"]) == 0
    out = capsys.readouterr().out
    assert "the reference is of other files than this model's: of the-original" in out
    assert "not in the reference: long text, 6,000 words" in out
    [file] = cache.iterdir()
    assert json.loads(file.read_text())["against"].endswith(", of the-original")


@pytest.mark.usefixtures("local")
def test_file_that_is_no_reference_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("ref.json")
    assert main(["verify", "demo", "--quick", "--write-reference", str(path)]) == 0
    written = json.loads(path.read_text())
    for changed, said in (
        ({}, "ref.json: is no reference file of reranker verify"),
        (written | {"texts": "0"}, "ref.json: is of another version's texts"),
        (written | {"pairs": {"English": []}}, "ref.json: is of another version's texts"),
        (written | {"pairs": {"Latin": []}}, "ref.json: is of another version's texts"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(InputFileError, match=said):
            verification.read_reference(path)
    assert main(["verify", "demo", "--quick", "--reference", str(path)]) == 1
    assert "ref.json: is of another version's texts" in capsys.readouterr().err


def test_what_cannot_be_verified_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(
        "applications: [{import_path: deployments.app:build_app, args: {engine: {simulated: {}}}}]"
    )
    assert main(["verify", "--config", "c.yaml"]) == 1
    assert "only a model itself can be verified" in capsys.readouterr().err
    assert main(["verify", "demo", "--reference", "none.json"]) == 1
    assert "none.json: No such file" in capsys.readouterr().err


def test_verdict_is_found_under_its_identity_only(cache: Path) -> None:
    found: verified.Verified = {
        "date": "2026-01-01T00:00:00Z",
        "passed": True,
        "against": "x",
        "engine": "y",
        "pairs": 3,
        "largest_difference": None,
    }
    assert verified.kept("a") is None
    assert verified.keep("a", found) == cache / "a.json"
    assert verified.kept("a") == found
    assert verified.kept("b") is None
    for broken in ("", "[]", "{}", json.dumps(found | {"more": 1})):
        (cache / "a.json").write_text(broken)
        assert verified.kept("a") is None


async def test_models_route_shows_what_was_found_of_the_model_and_not_of_its_adapters() -> None:
    backend = WordBackend()
    backend.adapters = ("medical",)

    async def cards() -> list[dict[str, Any]]:
        async with visitor(door(backend)) as client:
            answer: httpx.Response = await client.get("/v1/models")
        listed: list[dict[str, Any]] = answer.json()["data"]
        return listed

    assert [one.get("verified") for one in await cards()] == [None, None]
    assert all("verified" not in one for one in await cards())
    backend.found = {
        "date": "2026-01-01T00:00:00Z",
        "passed": True,
        "against": "x",
        "engine": "y",
        "pairs": 3,
        "largest_difference": 1e-5,
    }
    assert [one.get("verified") for one in await cards()] == [backend.found, None]
