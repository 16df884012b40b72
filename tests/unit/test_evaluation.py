"""`reranker eval`: the file forms, figures known by hand, and the whole command with a ranker of our own."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import rankers
from deployments.cli.main import main
from reranker.client import DEFAULT_URL, ScoredDocument
from reranker.errors import CommandError, InputFileError
from reranker.offline import evaluation

JUDGED = Path(__file__).parents[2] / "benchmarks" / "judged"
FILES = ("queries.jsonl", "corpus.jsonl", "candidates.trec", "qrels/test.tsv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two judged queries, one unjudged; of four documents d3 is relevant to q1, and d1 and (highly) d2 to q2."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "ccc"}\n{"_id": "q2", "text": "b"}\n{"_id": "q3", "text": "x"}\n'
    )
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": "x" * i}) + "\n" for i in range(1, 5))
    )
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td3\t1\nq1\td1\t0\nq2\td1\t1\nq2\td2\t2\nq3\td1\t0\n"
    )
    (tmp_path / "candidates.trec").write_text(
        "q1 Q0 d1 1 9 t\nq1 Q0 d2 2 8 t\nq1 Q0 d3 3 7 t\nq2 Q0 d1 1 5 t\nq2 Q0 d2 2 5 t\nq3 Q0 d1 1 1 t\n"
    )
    return tmp_path


def _longest_first(query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[ScoredDocument]:
    """Ranks by length, whatever the query."""
    order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
    return [ScoredDocument(index, len(documents[index]) / 10) for index in order]


@pytest.fixture
def longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def open_ranker(parsed: object) -> Iterator[rankers.Rank]:
        yield _longest_first

    monkeypatch.setattr(rankers, "open_ranker", open_ranker)


class _Models:
    """A ranker for each name, in place of a service's models: by the order that the name stands for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **longest_first: bool) -> None:
        self.done: list[str] = []
        """What was checked, and what ranked."""
        self._longest_first = longest_first
        monkeypatch.setattr(rankers, "check", self._check)
        monkeypatch.setattr(rankers, "open_ranker", self._open)

    def _check(self, parsed: Any) -> None:
        self.done.append(f"check {parsed.model} at {parsed.url}")
        if parsed.model not in self._longest_first:
            raise CommandError(f"the service has no model {parsed.model!r}")

    @contextlib.contextmanager
    def _open(self, parsed: Any) -> Iterator[rankers.Rank]:
        self.done.append(f"open {parsed.model} at {parsed.url}")

        def rank(query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[ScoredDocument]:
            found = _longest_first(query, documents)
            scores = [1 - one.relevance_score for one in found]
            return found if self._longest_first[parsed.model] else list(map(_rescored, found[::-1], scores[::-1]))

        yield rank
        self.done.append(f"close {parsed.model} at {parsed.url}")


def _rescored(one: ScoredDocument, score: float) -> ScoredDocument:
    return ScoredDocument(one.index, score)


@pytest.mark.usefixtures("longest_first")
def test_command_measures_before_and_after(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: q1's one relevant document moves from place 3 to 1; q2's two (gains 1, 2) swap into the ideal order."""
    assert main(["eval", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["queries"], answer["unjudged_queries"], answer["pairs"]) == (2, 1, 5)
    discount = 1 / math.log2(3)
    before = (1 / math.log2(4) + (1 + 2 * discount) / (2 + discount)) / 2
    figures = answer["metrics"]
    assert figures["nDCG@10"]["before"] == pytest.approx(before, abs=1e-6)
    assert figures["nDCG@10"]["after"] == 1
    assert figures["MRR@10"]["before"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert figures["MRR@10"]["difference"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["recall@10"] == {
        "before": 1, "before_error": 0, "after": 1, "after_error": 0, "difference": 0, "difference_error": 0,
        "low": 0, "high": 0, "p_value": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("longest_first")
def test_run_out_holds_every_candidate_and_can_be_the_next_before(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "reranked.trec"
    assert main(["eval", str(folder), "--depth", "2", "--run-out", str(out)]) == 0
    assert out.read_text().splitlines() == [
        "q1 Q0 d2 1 0.2 reranker",
        "q1 Q0 d1 2 0.1 reranker",
        "q1 Q0 d3 3 -2.0 reranker",
        "q2 Q0 d2 1 0.2 reranker",
        "q2 Q0 d1 2 0.1 reranker",
        "q3 Q0 d1 1 0.1 reranker",
    ]
    assert "| MRR@10 | 0.667 ± 0.333 | 0.667 ± 0.333 | +0.000" in capsys.readouterr().out
    assert evaluation.read_run(str(out))["q1"] == ["d2", "d1", "d3"]
    assert main(["eval", str(folder), "--candidates", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["nDCG@10"]["difference"] > 0


def test_query_without_candidates_counts_as_zero(folder: Path) -> None:
    """Leaving it out would make a first stage that finds nothing look perfect."""
    judgments = {"q1": {"d1": 1}, "q2": {"d2": 1}}
    assert evaluation.per_query(judgments, {"q1": ["d1"]})["MRR@10"].tolist() == [1, 0]


@pytest.mark.parametrize(("place", "reciprocal"), [(1, 1.0), (10, 0.1), (11, 0.0)])
def test_reciprocal_rank_stops_at_ten(place: int, reciprocal: float) -> None:
    run = {"q": [f"d{i}" for i in range(1, 20)]}
    assert evaluation.per_query({"q": {f"d{place}": 1}}, run)["MRR@10"] == pytest.approx(reciprocal)


def test_ties_keep_the_given_order() -> None:
    """trec_eval itself would order equal scores by id, and so measure the ids."""
    for ids in (["a", "b"], ["b", "a"]):
        assert evaluation.per_query({"q": {ids[0]: 1}}, {"q": ids})["MRR@10"].tolist() == [1]


def test_interval_holds_the_difference_and_is_the_same_every_time() -> None:
    judgments = {f"q{i}": {"a": 1} for i in range(100)}
    worse = {query: ["b", "a"] for query in judgments}
    mixed = {query: ["a", "b"] if i % 2 else ["b", "a"] for i, query in enumerate(judgments)}
    first, second = (evaluation.compare(judgments, worse, mixed)[1] for _ in range(2))
    assert first == second
    # The mean of 100 differences that are 0 or 1/2, half each: 0.25 with a standard deviation of 0.025.
    assert first.difference == pytest.approx(0.25)
    assert first.low == pytest.approx(0.25 - 1.96 * 0.025, abs=0.006)
    assert first.high == pytest.approx(0.25 + 1.96 * 0.025, abs=0.006)


@pytest.mark.usefixtures("longest_first")
def test_one_query_has_no_error_bar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "qrels" / "test.tsv").write_text("q1 0 d3 1\n")
    assert main(["eval", str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["metrics"]["MRR@10"]
    assert (figures["after"], figures["after_error"], figures["low"]) == (1, None, None)


def test_run_is_ordered_by_score_then_rank(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("q Q0 low 1 0.1 t\nq Q0 b 3 2e0 a tag\nq Q0 a 2 2 t\n")
    assert evaluation.read_run(str(path)) == {"q": ["a", "b", "low"]}


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d1 1\nq1 0 d2 -1\n",
        "q1\td1\t1\nq1\td2\t-1\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td2\t-1\r\n",
    ],
)
def test_judgments_are_read_in_both_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "qrels"
    path.write_text(text)
    assert evaluation.read_judgments(str(path)) == {"q1": {"d1": 1, "d2": -1}}


@pytest.mark.parametrize(
    "text",
    [
        '{"_id": 1, "title": "T", "text": "x y"}\n{"_id": "2", "text": "z", "metadata": {}}\n{"_id": "3", "text": "-"}',
        "_id\ttitle\ttext\n1\tT\tx y\n2\t\tz\n3\t\t-\n",
    ],
)
def test_texts_are_read_in_both_forms_and_only_if_wanted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "corpus"
    path.write_text(text)
    assert evaluation.read_texts(str(path), {"1", "2"}) == {"1": "T x y", "2": "z"}


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("candidates.trec", b"", ": holds no candidate"),
        ("candidates.trec", b"q1 Q0 d1 1 9 t\nq1 Q0 d2 2\n", ":2: must be `query Q0"),
        ("candidates.trec", b"q1 Q0 d1 1 nine t\n", ":1: rank '1' or score 'nine'"),
        ("candidates.trec", b"q1 Q0 d1 1 nan t\n", ":1: the score 'nan' is not finite"),
        ("candidates.trec", b"q1 Q0 d1 1 9 t\nq1 Q0 d1 2 8 t\n", ":2: has document 'd1' a second time"),
        ("candidates.trec", b"zz Q0 d1 1 9 t\n", ": none of its queries has a relevant document"),
        ("candidates.trec", b"q1 Q0 d99 1 9 t\n", "corpus.jsonl: lacks 'd99', a candidate"),
        ("qrels/test.tsv", b"\n\n", ": holds no judgment"),
        ("qrels/test.tsv", b"q1 0 d1 high\n", ":1: the relevance 'high'"),
        ("qrels/test.tsv", b"q1 d1\n", ":1: must be `query 0"),
        ("qrels/test.tsv", b"q1 0 d1 1\nq1 0 d1 2\n", ":2: judges document 'd1' a second time"),
        ("qrels/test.tsv", b"q9 0 d1 1\n", "candidates.trec: none of its queries"),
        ("queries.jsonl", b'{"_id": "q1"}\n', ":1: has no string `text`"),
        ("queries.jsonl", b'{"text": "x"}\n', ":1: has no `_id`"),
        ("queries.jsonl", b'{"_id": "q1", "text": "x"\n', ":1: is not JSON"),
        ("queries.jsonl", b'{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', ":2: has the id 'q1' a second"),
        ("queries.jsonl", b'{"_id": "q7", "text": "a"}\n', ": lacks 'q1' and 1 more, a query"),
        ("queries.jsonl", b"no tab here\n", ":1: must be an object"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "a"}\n\xff\n', ":2: is not UTF-8"),
        ("corpus.jsonl", b"d1\t" + b"x" * 2**24, ":1: has more than 16777216 bytes"),
        ("corpus.jsonl", b'{"_id": "d1", "title": 5, "text": "a"}\n', ":1: has no string `title`"),
    ],
)
def test_malformed_input_is_named_with_file_and_line(folder: Path, file: str, content: bytes, problem: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(InputFileError) as caught:
        evaluation.load(*(str(folder / file) for file in FILES))
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_unwritable_run_and_missing_paths_are_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot be written"):
        evaluation.write_run(tmp_path / "no" / "folder", {})
    assert main(["eval"]) == 1
    assert "give a FOLDER with queries.jsonl in it, or --queries FILE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["medquad-en", "cmrc-zh", "written-here-en", "written-here-zh"])
def test_committed_set_is_whole(name: str) -> None:
    """20 candidates for every query, and one relevant document in the corpus."""
    loaded = evaluation.load(*(str(JUDGED / name / file) for file in FILES))
    assert {len(documents) for documents in loaded.candidates.values()} == {20}
    assert loaded.queries.keys() == loaded.judgments.keys() == loaded.candidates.keys()
    assert loaded.unjudged_queries == 0


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("medquad-en", [0.904964, 0.888625, 0.955]),
        ("cmrc-zh", [0.909455, 0.887567, 0.975]),
        ("written-here-en", [0.50049, 0.462434, 0.625]),
        ("written-here-zh", [0.677622, 0.660962, 0.729167]),
    ],
)
def test_figures_of_the_committed_sets_are_trec_evals(name: str, figures: list[float]) -> None:
    """Computed by pytrec_eval itself, of BM25's candidates: whatever measures, these figures stay."""
    judgments = evaluation.read_judgments(str(JUDGED / name / "qrels" / "test.tsv"))
    run = evaluation.read_run(str(JUDGED / name / "candidates.trec"))
    compared = evaluation.compare(judgments, run, run)
    assert [round(one.before, 6) for one in compared] == figures


def _runs(better: int, worse: int, alike: int) -> evaluation.Comparison:
    """Compare two runs where the second has the relevant document first or last, in so many queries."""
    kinds = [("ba", "ab")] * better + [("ab", "ba")] * worse + [("ab", "ab")] * alike
    judgments = {f"q{number}": {"a": 1} for number in range(len(kinds))}
    runs = [{f"q{number}": list(kind[side]) for number, kind in enumerate(kinds)} for side in (0, 1)]
    return evaluation.compare(judgments, *runs)[0]


@pytest.mark.parametrize(
    ("better", "worse", "alike", "said"),
    [
        (20, 0, 80, "better than bm25 by 0.074 ± 0.015 nDCG@10 (95 % interval +0.0"),
        (0, 20, 80, "worse than bm25 by 0.074 ± 0.015 nDCG@10 (95 % interval -0.1"),
        (10, 9, 80, "cannot be told from bm25: +0.004 ± 0.016 nDCG@10 (95 % interval -0.0"),
        (0, 0, 50, "cannot be told from bm25: +0.000 ± 0.000 nDCG@10"),
        (
            5,
            0,
            0,
            "cannot be told from bm25: +0.369 ± 0.000 nDCG@10",
        ),  # chance does that once in 16: no interval sees it
        (1, 0, 0, "cannot be told from bm25: +0.369 nDCG@10 (one query has no interval, queries: 1)"),
    ],
)
def test_words_say_better_or_worse_only_where_the_queries_show_it(
    better: int, worse: int, alike: int, said: str
) -> None:
    compared = _runs(better, worse, alike)
    assert evaluation.in_words(compared, "bm25", better + worse + alike).startswith(said)
    assert compared == _runs(better, worse, alike)


def test_p_value_is_that_of_all_sign_changes() -> None:
    """Of five queries that all gain alike, 2 of 32 sign changes are as far from 0."""
    assert _runs(5, 0, 0).p_value == pytest.approx(2 / 32, abs=0.01)
    assert _runs(0, 0, 5).p_value == 1


@pytest.mark.usefixtures("longest_first")
def test_eval_against_a_baseline_says_in_words_whether_it_helps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "other.trec"
    run.write_text("q1 Q0 d3 1 9 x\nq2 Q0 d2 1 5 x\nq2 Q0 d1 2 4 x\nq3 Q0 d1 1 1 x\n")
    told = {}
    for baseline in ("first-stage", "T", str(run)):
        assert main(["eval", str(folder), "--against", baseline]) == 0
        table, _, told[baseline] = capsys.readouterr().out.strip().rpartition("\n")
        assert f"| metric | {baseline} | after |" in table
    assert told["first-stage"].startswith(
        "cannot be told from first-stage: +0.320 ± 0.180 nDCG@10 (95 % interval +0.140"
    )
    assert told["T"] == told["first-stage"].replace("first-stage", "T")
    assert told[str(run)].startswith(f"cannot be told from {run}: +0.000")
    assert main(["eval", str(folder), "--against", str(run), "--json"]) == 0
    against = json.loads(capsys.readouterr().out)["against"]
    assert against == {"baseline": str(run), "verdict": "cannot be told", "in_words": told[str(run)]}


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        (["--against", "medical"], [(None, "http://a"), ("medical", "http://a")]),
        (["--model", "m", "--against", "http://b"], [("m", "http://a"), (None, "http://b")]),
        (["--model", "m", "--model", "n"], [("m", "http://a"), ("n", "http://a")]),
    ],
)
def test_baseline_may_be_another_service_or_another_model_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], models: list[tuple[str | None, str]]
) -> None:
    """All are asked for before one ranks; each ranks with the same instruction, and one at a time."""
    opened: list[tuple[str, str | None, str]] = []

    @contextlib.contextmanager
    def open_ranker(parsed: Any) -> Iterator[rankers.Rank]:
        assert checked == models
        opened.append((parsed.model, parsed.url, parsed.instruction))
        yield _longest_first

    checked: list[tuple[str | None, str]] = []
    monkeypatch.setattr(rankers, "check", lambda one: checked.append((one.model, one.url)))
    monkeypatch.setattr(rankers, "open_ranker", open_ranker)
    assert main(["eval", str(folder), "--url", "http://a", "--instruction", "i", *arguments]) == 0
    assert opened == [(*one, "i") for one in models]


@pytest.mark.usefixtures("longest_first")
def test_baseline_that_is_not_there_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "short.trec").write_text("q1 Q0 d3 1 9 x\n")
    for arguments, said in (
        (["--against", "bm25"], "the candidates' tag is t; if it is a model, give it as a second --model"),
        (["--against", "other-model", "--local"], "no such file, and the candidates' tag is t"),
        (["--against", str(folder / "short.trec")], "short.trec: lacks 'q2' and 0 more of the queries"),
        (["--against", "other", "--search", "i"], "the baseline is the first stage"),
    ):
        assert main(["eval", str(folder), *arguments]) == 1
        assert said in capsys.readouterr().err


def test_second_model_is_a_baseline_like_any_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _Models(monkeypatch, long=True, short=False)
    told = []
    for arguments in (["--model", "short"], ["--against", "short"]):
        assert main(["eval", str(folder), "--model", "long", *arguments, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out) | {"seconds": 0})
    assert told[0] == told[1]
    assert told[0]["against"]["baseline"] == "short"
    assert main(["eval", str(folder), "--model", "long", "--model", "short"]) == 0
    assert "| metric | short | long | difference (95 % interval) |" in capsys.readouterr().out
    assert told[0]["metrics"]["MRR@10"] | {"p_value": 0} == {
        "before": 0.666667, "before_error": 0.333333, "after": 1, "after_error": 0, "difference": 0.333333,
        "difference_error": 0.333333, "low": 0, "high": 0.666667, "p_value": 0,
    }  # fmt: skip


def test_model_that_is_not_there_is_told_before_any_ranks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = _Models(monkeypatch, long=True)
    assert main(["eval", str(folder), "--model", "long", "--model", "lnog"]) == 1
    assert "has no model 'lnog'" in capsys.readouterr().err
    assert not [one for one in models.done if one.startswith("open")]


def _other_set(folder: Path, name: str) -> Path:
    """As many queries as 20, each with the longer of two candidates relevant."""
    other = folder / name
    (other / "qrels").mkdir(parents=True)
    numbers = range(20)
    (other / "queries.jsonl").write_text("".join(f"q{n}\tquery {n}\n" for n in numbers))
    (other / "corpus.jsonl").write_text("short\tx\nlong\txx\n")
    (other / "qrels" / "test.tsv").write_text("".join(f"q{n}\tlong\t1\n" for n in numbers))
    runs = "".join(f"q{n} Q0 short 1 2 t\nq{n} Q0 long 2 1 t\n" for n in numbers)
    (other / "candidates.trec").write_text(runs)
    return other


def test_several_sets_and_models_are_one_table_with_the_words_below(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: nDCG@10 of the 20 further queries is 1, or 1/log2(3); together with the two of the fixture."""
    models = _Models(monkeypatch, long=True, same=True, short=False)
    other = _other_set(folder, "other")
    sets = ["eval", str(folder), str(other)]
    named = ["--model", "long", "--model", "same", "--model", "short"]
    assert main([*sets, *named]) == 0
    _, left_out, _, heads, _, *rows = capsys.readouterr().out.splitlines()
    assert left_out == "1 more queries are left out: no relevant document is known for them"
    assert heads == "| nDCG@10 | queries | first stage | long | same | short |"
    low = 1 / math.log2(3)
    first_stage = (0.5 + (1 + 2 * low) / (2 + low)) / 2
    assert rows[0].startswith(f"| {folder.name} | 2 | {first_stage:.3f} ± 0.180 | 1.000 ± 0.000 | 1.000 ± 0.000 | ")
    assert rows[1] == f"| other | 20 | {low:.3f} ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 | {low:.3f} ± 0.000 |"
    assert rows[2].startswith(f"| all | 22 | {(20 * low + 2 * first_stage) / 22:.3f} ± 0.0")
    assert rows[4] == "long is, by nDCG@10:"
    assert [one.split(" (")[0] for one in rows[7:9]] == [
        "- other: cannot be told from same: +0.000 ± 0.000 nDCG@10",
        "- other: better than short by 0.369 ± 0.000 nDCG@10",
    ]
    assert len(rows) == 11
    assert models.done[3:] == [
        f"{what} {name} at {DEFAULT_URL}" for name in ("long", "same", "short") for what in ("open", "close")
    ]

    assert main([*sets, *named, "--against", "T", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["set"] for one in answer["sets"]] == [folder.name, "other", "all"]
    found = answer["sets"][1]
    assert list(found["rankings"]) == ["long", "same", "short", "T"]
    assert found["rankings"]["short"]["metrics"]["nDCG@10"] == {"mean": round(low, 6), "error": 0}
    verdicts = {one["baseline"]: one["verdict"] for one in found["against"]}
    assert verdicts == {"same": "cannot be told", "short": "better", "T": "better"}
    assert found["against"][1]["metrics"]["MRR@10"]["difference"] == 0.5


@pytest.mark.usefixtures("longest_first")
def test_sets_of_one_name_are_told_apart_by_their_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(_other_set(folder / part, "test")) for part in ("a", "b")]
    assert main(["eval", *folders, "--json"]) == 0
    assert [one["set"] for one in json.loads(capsys.readouterr().out)["sets"]] == [*folders, "all"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queries", "q.jsonl"], "--queries is of one FOLDER, and here are several"),
        (["--run-out", "out.trec"], "--run-out is of one FOLDER"),
        (["--search", "i"], "--search is for one FOLDER and one --model"),
    ],
)
def test_what_is_of_one_set_is_refused_for_several(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(folder), str(folder), *arguments]) == 1
    assert said in capsys.readouterr().err
