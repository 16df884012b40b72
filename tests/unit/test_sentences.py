"""Sentences of any text: their places are right, none splits what a reader sees as one character."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import regex

from reranker.ranking.sentences import LONG_BYTES, split

PIECES = (
    *("word ", "Word", "a", ". ", "! ", "?", "e.g. ", "Dr. ", "1", "12.5 ", "北京", "。", "！", "”", "“", "「", "」"),
    *("ไทย", " ", "\t", "\n", "\n\n", "\r\n", "\r", "\x00", "\x85", "\u2028", "\u3000", "\ufeff", "\u200d", "\u0600"),
    *("😀", "👨‍👩‍👧", "🇩🇪", "\U0001f1e9", "e\u0301", "\u0301", "각", "\u1100", "क्षि", "שלום ", "مرحبا؟ ", "\u202e"),
    *("\ud800", "\udc00", "\U00010400", "- ", "# ", "```\n", "| a | b |\n", "|", "x" * 300, "字" * 120, "* "),
)


def texts(seed: int, count: int) -> list[str]:
    """Draw texts of up to eighty pieces, any beside any."""
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randrange(80))) for _ in range(count)]


def gaps(bounds: list[int]) -> list[tuple[int, int]]:
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def graphemes_of(text: str) -> set[int]:
    """Give where characters end, by another library than the one that is tested; half a pair counts as a character."""
    clean = regex.sub("[\ud800-\udfff]", "\ufffd", text)
    return {0, *(match.end() for match in regex.finditer(r"\X", clean))}


@pytest.mark.parametrize("seed", range(10))
def test_spans_of_any_text_lie_in_it_apart_and_split_no_grapheme(seed: int) -> None:
    """Ten thousand texts, a third of them looked at in part, as where a model read no more; split in lists."""
    draw, drawn = random.Random(seed), texts(seed, 1_000)
    parts = [
        tuple(sorted((draw.randint(0, len(one)), draw.randint(0, len(one))))) if draw.random() < 0.3 else None
        for one in drawn
    ]
    for text, part, found in zip(drawn, parts, split(drawn, 64, parts), strict=True):  # type: ignore[arg-type]
        begin, end = part or (0, len(text))
        assert all(begin <= start < stop <= end for start, stop in found)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(found))
        assert {place for one in found for place in one} <= graphemes_of(text)
        if part is None:  # nothing but white space is in no sentence
            bounds = [0, *(place for one in found for place in one), len(text)]
            assert not "".join(text[start:stop] for start, stop in gaps(bounds)).strip()


def test_a_text_is_split_alone_as_among_others() -> None:
    drawn = texts(99, 300)
    assert split(drawn, 64) == [split([one], 64)[0] for one in drawn]


def sentences(text: str, most: int = 64) -> list[str]:
    return [text[start:end] for start, end in split([text], most)[0]]


def test_sentences_of_many_scripts() -> None:
    """Short ones would join; these are long enough to stand alone."""
    written = (
        ["The treatment lasts for about six to eight weeks.", "Is it dangerous for those who have a weak heart?"],
        ["北京是中华人民共和国的首都，也是全国的政治中心。", "上海是中国最大的城市，人口超过两千四百万！"],
        ["日本の首都は東京であり、人口は約千四百万人です。", "大阪は西日本で最も大きな都市として知られています。"],
        [
            "The library is written in C# for the .NET framework 4.5.2.",
            "It costs only $3.50 at www.example.com on weekdays.",
        ],
        ["यह इस पाठ का पहला वाक्य है जो काफी लंबा है।", "यह दूसरा वाक्य है जो पहले के बाद आता है।"],
        ["هذه هي الجملة الأولى في هذا النص الطويل جدا؟", "وهذه هي الجملة الثانية التي تأتي بعدها."],
        [
            "Prof. Smith and Mr. Jones met in the U.S. at 3.30 p.m. in London.",
            "They talked about the weather for an hour or two.",
        ],
    )
    for one in written:
        assert sentences(" ".join(one)) == one


def test_an_opening_bracket_or_quote_begins_a_sentence() -> None:
    """UAX #29 leaves it with the sentence before, where no space is between the two."""
    written = [
        "他说：“这里的天气一年四季都非常好。”",
        "“那么你为什么一直不肯搬到这里来住呢？”",
        "《红楼梦》是中国古典小说的代表作之一。",
    ]
    assert sentences("".join(written)) == written


def test_code_and_tables_are_whole_and_list_items_are_apart() -> None:
    code = "```python\nvalue = compute(1.) . Done.\n\nprint('One. Two! Three?')\n```"
    table = "| drug | dose. Unit |\n|------|------|\n| Aspirin. | 100 mg. Daily |"
    items = [
        "- Take it in the morning, before you have had breakfast",
        "- Drink a large glass of water with each of them",
    ]
    wrapped = "A line that somebody has\nwrapped at a width of thirty\ncharacters is one sentence."
    found = sentences("\n\n".join([code, table, "\n".join(items), wrapped]))
    assert found == [code, table, *items, wrapped]


def test_a_short_sentence_joins_its_neighbour_and_a_long_one_is_cut() -> None:
    long = "and so on, with more of the same to say, " * 60
    assert sentences(f"# Dose\n\nYes. It is taken twice a day by most of the people. So {long}Why?")[0] == (
        "# Dose\n\nYes. It is taken twice a day by most of the people."
    )
    assert all(len(one) < 1.5 * LONG_BYTES and one.endswith((",", "?")) for one in sentences(f"{long}Why?"))
    thai = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากรมากกว่าแปดล้านคน " * 9  # no full stops, only spaces
    assert all(len(one.encode()) < 1.5 * LONG_BYTES and " " in one for one in sentences(thai))
    assert sentences("Yes.") == ["Yes."]
    assert sentences(" \n ") == sentences("") == []


def test_of_too_many_sentences_neighbours_are_joined() -> None:
    text = " ".join(f"This is sentence number {number} of a document that is quite long." for number in range(40))
    assert len(sentences(text)) == 40
    assert len(sentences(text, 7)) == 7
    assert " ".join(sentences(text, 7)) == text
