"""Every token of a document scored whole is in some window; a cut takes tokens from one end and says so."""

from hypothesis import given
from hypothesis import strategies as st

from reranker.model.prompt import CUT_THE_END, CuttingPolicy

TOKENS = st.integers(0, 5_000)
ROOM = st.integers(1, 600)


@given(tokens=TOKENS, room=ROOM, overlap=st.integers(0, 700), window=st.one_of(st.none(), st.integers(1, 700)))
def test_windows_cover_every_token_and_none_is_too_long(
    tokens: int, room: int, overlap: int, window: int | None
) -> None:
    policy = CuttingPolicy("windows", window_tokens=window, overlap_tokens=overlap, max_windows=10_000)
    cut = policy.cut(tokens, room)
    assert not cut.truncated
    assert all(0 <= end - start <= min(room, window or room) for start, end in cut.spans)
    assert cut.spans[0][0] == 0
    assert cut.spans[-1][1] == tokens
    assert all(later[0] <= earlier[1] for earlier, later in zip(cut.spans, cut.spans[1:], strict=False))
    assert list(cut.spans) == sorted(set(cut.spans))


@given(tokens=st.integers(601, 5_000), room=st.integers(10, 600))
def test_neighbours_share_the_overlap(tokens: int, room: int) -> None:
    cut = CuttingPolicy("windows", overlap_tokens=5, max_windows=10_000).cut(tokens, room)
    assert all(earlier[1] - later[0] >= 5 for earlier, later in zip(cut.spans, cut.spans[1:], strict=False))


def test_last_window_is_as_long_as_the_others() -> None:
    """A rest of three tokens would be scored without its context."""
    assert CuttingPolicy("windows", max_windows=9).cut(23, 10).spans == ((0, 10), (10, 20), (13, 23))


def test_more_windows_than_allowed_are_cut_off_and_said_so() -> None:
    cut = CuttingPolicy("windows", max_windows=2).cut(100, 10)
    assert cut.spans == ((0, 10), (10, 20))
    assert cut.truncated


@given(tokens=TOKENS, room=ROOM)
def test_truncation_keeps_one_end(tokens: int, room: int) -> None:
    kept = min(tokens, room)
    end = CUT_THE_END.cut(tokens, room)
    start = CuttingPolicy(side="start").cut(tokens, room)
    assert end.spans == ((0, kept),)
    assert start.spans == ((tokens - kept, tokens),)
    assert end.truncated == start.truncated == (tokens > room)


@given(tokens=TOKENS, room=ROOM, cap=st.integers(1, 700))
def test_cap_comes_before_anything_else(tokens: int, room: int, cap: int) -> None:
    """max_tokens_per_doc bounds the cost of a document, also when it is scored in windows."""
    for policy in (
        CuttingPolicy(max_document_tokens=cap),
        CuttingPolicy("windows", max_document_tokens=cap, max_windows=10_000),
        CuttingPolicy("windows", side="start", max_document_tokens=cap, max_windows=10_000),
    ):
        cut = policy.cut(tokens, room)
        covered = cut.spans[-1][1] - cut.spans[0][0]
        assert covered <= min(tokens, cap)
        assert cut.truncated == (covered < tokens)
        assert cut.spans[-1][1] == tokens or policy.side == "end"
