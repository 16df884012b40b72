"""What goes over the socket comes out as it went in, however it was cut up; what is no frame of ours is refused."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker import errors
from reranker.transport import frames
from reranker.transport.frames import Frame, FrameError, FrameReader, FrameType
from reranker.types import EngineScores, ReplicaLoad, Shard, ShardScores, ShardTerms
from tests.unit.steppers import shard
from tests.unit.test_errors import EXAMPLES

TERMS = ShardTerms(weight=8.0, timeout_s=1.5, sender="an ingress", request_id="rerank-1", list_id="a list")
ANSWER = ShardScores(
    EngineScores(np.array([0.25, -3, 1e-30], dtype=np.float32), np.array([True, False, True]), 0.5, 2.5),
    "replica",
    ReplicaLoad(5, 12.5, {"board": 5}),
    "model",
)


def _through(frame: Frame) -> Frame:
    [read] = FrameReader().feed(bytes(frame))
    return read


def _same(one: Shard, other: Shard) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Shard)
    )


@given(lengths=st.lists(st.integers(0, 50), max_size=30), head=st.integers(0, 9), tail=st.integers(0, 9))
def test_shard_of_any_shape_comes_out_as_it_went_in(lengths: list[int], head: int, tail: int) -> None:
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    tokens = np.arange(head + tail + sum(lengths), dtype=np.int32)
    sent = Shard(tokens[:head], tokens[head : head + tail], tokens[head + tail :], offsets)
    read, terms = frames.unpack_shard(_through(frames.pack_shard(7, sent, TERMS)))
    assert _same(read, sent)
    assert terms == TERMS


def test_every_fact_of_an_answer_and_of_the_terms_travels() -> None:
    """Also those that somebody adds later: none may stay at its default here."""
    read = frames.unpack_scores(_through(frames.pack_scores(7, ANSWER)))
    for sent, came in ((ANSWER, read), (ANSWER.scores, read.scores)):
        for field in dataclasses.fields(sent):
            if field.name not in ("scores", "logits", "scored"):
                assert getattr(sent, field.name) != field.default, "give it a value above"
                assert getattr(came, field.name) == getattr(sent, field.name)
    assert read.scores.logits.tolist() == ANSWER.scores.logits.tolist()
    assert read.scores.scored.tolist() == [True, False, True]
    for field in dataclasses.fields(ShardTerms):
        assert getattr(TERMS, field.name) != field.default, "give it a value above"


def test_field_of_a_newer_version_is_passed_over_and_a_missing_one_has_its_default() -> None:
    sent = frames.pack_shard(7, shard(1, 2), TERMS)
    header = orjson.loads(sent.header)
    header["terms"] = {"weight": 7, "not_known_yet": 1}
    _, terms = frames.unpack_shard(dataclasses.replace(sent, header=orjson.dumps(header)))
    assert terms == ShardTerms(weight=7)
    answer = frames.pack_scores(7, ANSWER)
    read = frames.unpack_scores(dataclasses.replace(answer, header=b'{"replica": "r", "not_known_yet": 1}'))
    assert (read.replica, read.load) == ("r", ReplicaLoad())


@pytest.mark.parametrize(
    "kind", [one for one in EXAMPLES if one.__module__ == errors.__name__], ids=lambda kind: kind.__name__
)
def test_error_comes_out_with_its_class_and_its_words(kind: type[errors.RerankerError]) -> None:
    sent = kind(*EXAMPLES[kind])
    read = frames.unpack_error(_through(frames.pack_error(7, sent)))
    assert type(read) is kind
    assert str(read) == str(sent)


@pytest.mark.parametrize("said", [b"", b"[]", b'{"error": "os"}', b'{"error": "ScoringError", "arguments": 3}'])
def test_error_that_is_none_of_ours_is_a_scoring_error(said: bytes) -> None:
    assert type(frames.unpack_error(Frame(FrameType.FAILED, 7, said))) is errors.ScoringError


def test_error_with_an_argument_that_json_cannot_hold_is_a_scoring_error() -> None:
    read = frames.unpack_error(frames.pack_error(7, errors.ServiceError(object())))
    assert type(read) is errors.ScoringError


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_are_found_however_the_bytes_are_cut(cuts: list[int]) -> None:
    sharded, scored = frames.pack_shard(7, shard(1, 2), TERMS), frames.pack_scores(7, ANSWER)
    sent = [sharded, Frame(FrameType.DROP, 3), scored, Frame(FrameType.LEAVING)]
    stream = b"".join(map(bytes, sent))
    reader, at = FrameReader(), 0
    read: list[Frame] = []
    for size in [*cuts, len(stream)]:
        read += reader.feed(stream[at : at + size])
        at += size
    assert read == sent


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("<BQII", 99, 0, 0, 0),
        struct.pack("<BQII", FrameType.SHARD, 0, 0, frames.MAX_FRAME_BYTES + 1),
        struct.pack("<BQII", FrameType.SHARD, 0, 2**32 - 1, 2**32 - 1),
    ],
    ids=["HTTP", "unknown kind", "too large", "far too large"],
)
def test_bytes_that_are_no_frame_are_refused_before_they_are_collected(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(data))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"not json", b""),
        (b"{}", b""),
        (b'{"terms": {}, "head": 0, "tail": 0, "pairs": 0}', b"123"),
        (b'{"terms": {}, "head": -1, "tail": 0, "pairs": 0}', b"0" * 4),
        (b'{"terms": {}, "head": 9, "tail": 0, "pairs": 0}', b"0" * 4),
        (b'{"terms": {}, "head": 0, "tail": 0, "pairs": 1}', struct.pack("<3i", 0, 2, 5)),
        (b'{"terms": {}, "head": 0, "tail": 0, "pairs": 2}', struct.pack("<4i", 0, 2, 1, 5)),
        (b'{"terms": {"weight": "much"}, "head": 0, "tail": 0, "pairs": 0}', struct.pack("<i", 0)),
    ],
    ids=["no JSON", "nothing", "half a token", "negative", "head too long", "offset too far", "falling", "weight"],
)
def test_shard_that_does_not_add_up_is_refused(header: bytes, body: bytes) -> None:
    with pytest.raises(FrameError):
        frames.unpack_shard(Frame(FrameType.SHARD, 7, header, body))


@pytest.mark.parametrize(("header", "body"), [(b"{}", b""), (b"[]", b""), (b'{"replica": 3}', b""), (b"{}", b"123")])
def test_answer_that_does_not_add_up_is_refused(header: bytes, body: bytes) -> None:
    with pytest.raises(FrameError):
        frames.unpack_scores(Frame(FrameType.SCORES, 7, header, body))


def test_frame_that_nobody_would_take_is_not_sent() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        bytes(Frame(FrameType.SHARD, 7, b"", bytes(frames.MAX_FRAME_BYTES + 1)))
