"""Refuse early, refuse whole lists, say when to come back; and never lose count of what was let in."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import OverloadedError, RequestTooLargeError
from reranker.ranking.admission import Admission, Permit
from reranker.types import Priority, ReplicaLoad

CAP = 1_000_000
CONFIG = AdmissionConfig(max_queue_s=5, max_tokens_in_flight=CAP)
THOUSAND_A_SECOND = ReplicaLoad(0, 1_000.0)
NOBODY_KNOWS = ReplicaLoad(0, None)
PLENTY_S, LONGEST_S = 100.0, 120.0
BODY_BYTES = 16_000
"""Of a list of 4,000 tokens: a usual one."""


@pytest.fixture
def admission() -> Admission:
    """An ingress without any list."""
    return Admission(CONFIG, PrioritiesConfig(), LONGEST_S)


@pytest.fixture
def stack() -> ExitStack:
    """Holds the permits of a test, which are never given back."""
    return ExitStack()


def _let_in(admission: Admission, stack: ExitStack, tokens: int, elsewhere: ReplicaLoad = NOBODY_KNOWS) -> Permit:
    permit = stack.enter_context(admission.permit(4 * tokens, "interactive", PLENTY_S, elsewhere))
    permit.resize(tokens)  # as guessed: a quarter of its bytes
    return permit


def _refusal(
    admission: Admission, elsewhere: ReplicaLoad, priority: Priority = "interactive", timeout_s: float = PLENTY_S
) -> OverloadedError:
    with pytest.raises(OverloadedError) as refused, admission.permit(BODY_BYTES, priority, timeout_s, elsewhere):
        pass
    return refused.value


def test_idle_service_lets_in_anything_below_the_cap(admission: Admission) -> None:
    """A list that takes minutes would wait as long tomorrow: there is nothing to wait for."""
    with admission.permit(10 * CAP, "bulk", 0.1, THOUSAND_A_SECOND) as permit:
        permit.resize(CAP)
        assert admission.tokens_in_flight == CAP
    assert (admission.lists_in_flight, admission.tokens_in_flight) == (0, 0)


def test_nobody_is_sent_away_for_longer_than_what_is_in_flight_may_last(admission: Admission) -> None:
    """What it has to do may be a guess from its bytes; its deadline is none."""
    assert _refusal(admission, ReplicaLoad(CAP, 1_000.0)).retry_after_s == LONGEST_S


def test_list_beyond_the_cap_is_never_let_in_and_says_so(admission: Admission) -> None:
    """413 and not 429: sending it again changes nothing."""
    with (
        pytest.raises(RequestTooLargeError, match=r"1000001 tokens; the limit is 1000000"),
        admission.permit(4, "interactive", PLENTY_S, NOBODY_KNOWS) as permit,
    ):
        permit.resize(CAP + 1)
    assert admission.tokens_in_flight == 0


def test_estimate_alone_is_no_reason_for_413(admission: Admission) -> None:
    """A body of much markup and few tokens fits; only tokens that were counted are too many."""
    with admission.permit(8 * CAP, "interactive", PLENTY_S, NOBODY_KNOWS) as permit:
        permit.grow(10)
        assert permit.tokens == CAP
        permit.resize(20)
        assert permit.tokens == 20
        with pytest.raises(RequestTooLargeError):
            permit.grow(CAP + 1)


def test_what_is_rendered_tells_of_the_rest(admission: Admission) -> None:
    """A guess about 20 MB of spaces must not keep others out for as long as they are looked at."""
    with admission.permit(4_000_000, "interactive", PLENTY_S, NOBODY_KNOWS) as permit:
        assert permit.tokens == 1_000_000
        permit.grow(30, share=0.1)
        assert permit.tokens == 300
        permit.grow(80, share=0.2)
        assert permit.tokens == 400
    with admission.permit(4_000_000, "interactive", PLENTY_S, NOBODY_KNOWS, most_tokens=8_192) as permit:
        assert permit.tokens == 8_192


def test_no_guess_says_that_a_list_can_never_be_let_in(admission: Admission, stack: ExitStack) -> None:
    """And a Retry-After is what the work before it takes, however large the list."""
    _let_in(admission, stack, 6_000)
    with pytest.raises(OverloadedError) as refused:
        admission.permit(400 * CAP, "interactive", PLENTY_S, THOUSAND_A_SECOND)
    assert refused.value.retry_after_s in range(1, 7)


def test_lists_of_one_request_share_a_permit(admission: Admission) -> None:
    """The estimate of each holds until it is rendered; then its tokens do."""
    with admission.permit(4_000, "interactive", PLENTY_S, NOBODY_KNOWS, lists=2) as permit:
        permit.resize(10, 0)
        permit.grow(20, 1)
        assert permit.tokens == 510
        permit.grow(1_500, 1)
        assert permit.tokens == 1_510
        permit.resize(1_600, 1)
        assert permit.tokens == admission.tokens_in_flight == 1_610
        with pytest.raises(RequestTooLargeError):
            permit.grow(CAP, 1)


def test_list_is_let_in_until_the_queue_is_as_long_as_allowed(admission: Admission, stack: ExitStack) -> None:
    """Nine tenths of 5 s at 1,000 tokens a second: one more at 4,500 queued, none at 4,501."""
    permit = _let_in(admission, stack, 4_500)
    with admission.permit(BODY_BYTES, "interactive", PLENTY_S, THOUSAND_A_SECOND):
        pass
    permit.resize(4_501)
    _refusal(admission, THOUSAND_A_SECOND)


def test_refusal_says_how_long_the_queue_is_and_when_there_will_be_room(admission: Admission, stack: ExitStack) -> None:
    """12,400 tokens are 12.4 s; 7,900 of them must be done before 4.5 s are left: 8 s, in whole ones."""
    _let_in(admission, stack, 12_400)
    refused = _refusal(admission, THOUSAND_A_SECOND)
    assert (refused.queue_s, refused.retry_after_s) == (12.4, 8)


def test_nobody_is_sent_away_for_less_than_a_second(admission: Admission, stack: ExitStack) -> None:
    _let_in(admission, stack, 5_001)
    assert _refusal(admission, THOUSAND_A_SECOND).retry_after_s == 1


def test_bulk_is_refused_before_interactive(admission: Admission, stack: ExitStack) -> None:
    """Half the queue is kept for those who wait."""
    _let_in(admission, stack, 2_501)
    assert _refusal(admission, THOUSAND_A_SECOND, "bulk").retry_after_s == 1
    with admission.permit(BODY_BYTES, "interactive", PLENTY_S, THOUSAND_A_SECOND):
        pass


def test_list_that_would_not_get_its_turn_in_time_is_not_started(admission: Admission, stack: ExitStack) -> None:
    """Its work would be thrown away, and delay those that can still be answered."""
    _let_in(admission, stack, 3_000)
    with admission.permit(BODY_BYTES, "interactive", 3.5, THOUSAND_A_SECOND):
        pass
    assert _refusal(admission, THOUSAND_A_SECOND, timeout_s=2.0).retry_after_s == 2


def test_small_list_does_not_count_all_of_a_huge_one(admission: Admission, stack: ExitStack) -> None:
    """They take turns in the engines; a list as large would wait."""
    _let_in(admission, stack, 50_000)
    _refusal(admission, THOUSAND_A_SECOND)
    with admission.permit(4 * 1_000, "interactive", PLENTY_S, THOUSAND_A_SECOND):
        pass
    with pytest.raises(OverloadedError), admission.permit(4 * 1_000, "bulk", PLENTY_S, THOUSAND_A_SECOND):
        pass


def test_many_small_lists_count_as_what_they_are(admission: Admission, stack: ExitStack) -> None:
    for _ in range(46):
        _let_in(admission, stack, 100)
    with pytest.raises(OverloadedError), admission.permit(400, "interactive", PLENTY_S, THOUSAND_A_SECOND):
        pass


def test_work_of_other_ingress_replicas_counts(admission: Admission) -> None:
    """They share the engines: 6,000 tokens of theirs are 6 s, though we have sent nothing."""
    refused = _refusal(admission, ReplicaLoad(6_000, 1_000.0))
    assert (refused.queue_s, refused.retry_after_s) == (6.0, 2)


def test_before_the_first_measurement_only_the_cap_counts(admission: Admission, stack: ExitStack) -> None:
    _let_in(admission, stack, CAP - 30_000)
    for size in (20_000, 29_000):
        admission.permit(4 * size, "bulk", 0.1, NOBODY_KNOWS, most_tokens=CAP)
    with pytest.raises(OverloadedError) as refused:
        admission.permit(4 * 31_000, "bulk", 0.1, NOBODY_KNOWS, most_tokens=CAP)
    assert refused.value.retry_after_s == 1


def test_small_lists_are_the_last_to_be_refused(admission: Admission, stack: ExitStack) -> None:
    """One huge list may fill what may be in flight, and the engines take turns."""
    _let_in(admission, stack, CAP)
    admission.permit(4 * 1_000, "interactive", PLENTY_S, NOBODY_KNOWS, most_tokens=CAP)
    _let_in(admission, stack, CAP // 4)
    with pytest.raises(OverloadedError):
        admission.permit(4 * 1_000, "interactive", PLENTY_S, NOBODY_KNOWS, most_tokens=CAP)


def test_cap_holds_however_fast_the_engines_are(admission: Admission, stack: ExitStack) -> None:
    """The tokens of all lists are in this process's memory."""
    _let_in(admission, stack, CAP)
    _let_in(admission, stack, CAP // 4 + 1)
    _refusal(admission, ReplicaLoad(0, 1e9))


def test_body_is_refused_unread_only_when_no_class_would_get_in(admission: Admission, stack: ExitStack) -> None:
    """Whether it is bulk stands in the body."""
    permit = _let_in(admission, stack, 4_000)
    admission.require_any_room(BODY_BYTES, THOUSAND_A_SECOND)
    _refusal(admission, THOUSAND_A_SECOND, "bulk")
    permit.resize(6_000)
    with pytest.raises(OverloadedError):
        admission.require_any_room(BODY_BYTES, THOUSAND_A_SECOND)
    assert admission.lists_in_flight == 1


def test_size_of_a_body_is_learned_from_those_before(admission: Admission, stack: ExitStack) -> None:
    """Before it is rendered a list counts with what bodies of its size had: Chinese has more tokens a byte."""
    for _ in range(300):
        with admission.permit(1_000, "interactive", PLENTY_S, NOBODY_KNOWS) as permit:
            permit.resize(600)
    permit = stack.enter_context(admission.permit(1_000, "interactive", PLENTY_S, NOBODY_KNOWS))
    assert permit.tokens == pytest.approx(600, rel=0.02)


def test_small_lists_teach_nothing_about_large_ones(admission: Admission, stack: ExitStack) -> None:
    """Most of a small list's tokens may be the prompt's own: a large one would be thought four times as long."""
    for _ in range(200):
        with admission.permit(1_000, "interactive", PLENTY_S, NOBODY_KNOWS) as permit:
            permit.resize(1_000)
    large = stack.enter_context(admission.permit(400_000, "interactive", PLENTY_S, NOBODY_KNOWS))
    assert large.tokens == 100_000


def test_permit_is_given_back_when_the_list_fails(admission: Admission) -> None:
    def fail() -> None:
        with admission.permit(4, "bulk", PLENTY_S, NOBODY_KNOWS) as permit:
            permit.resize(700)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (admission.lists_in_flight, admission.tokens_in_flight) == (0, 0)


@settings(max_examples=40)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["let in", "resize", "give back"]), st.integers(1, 2 * CAP), st.integers(0, 9)),
        max_size=60,
    ),
    speed=st.one_of(st.none(), st.floats(1_000, 1e6)),
)
def test_tokens_in_flight_are_always_the_sum_of_the_permits(
    events: list[tuple[str, int, int]], speed: float | None
) -> None:
    admission = Admission(CONFIG, PrioritiesConfig(), LONGEST_S)
    out: list[tuple[ExitStack, Permit]] = []
    for event, amount, which in events:
        if event == "let in":
            stack = ExitStack()
            try:
                permit = stack.enter_context(admission.permit(amount, "bulk", PLENTY_S, ReplicaLoad(0, speed)))
            except OverloadedError:
                assert out, "an idle service refuses nobody"
            else:
                out.append((stack, permit))
        elif out and event == "resize":
            if amount > CAP:
                with pytest.raises(RequestTooLargeError):
                    out[which % len(out)][1].resize(amount)
            else:
                out[which % len(out)][1].resize(amount)
        elif out:
            out.pop(which % len(out))[0].close()
        assert admission.tokens_in_flight == sum(permit.tokens for _, permit in out)
        assert admission.lists_in_flight == len(out)
    for stack, _ in out:
        stack.close()
    assert (admission.lists_in_flight, admission.tokens_in_flight) == (0, 0)
