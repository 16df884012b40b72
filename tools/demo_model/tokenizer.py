r"""The demo model's tokenizer: byte-level BPE over stemmed English words and single Chinese characters.

It throws away what a lexical ranker must not see (case, white space, inflection), so `decode` does not give the text
back. The three markers of the template, `<Instruct>:` `<Query>:` `<Document>:`, are words like any other: one
alternative of the word pattern keeps each in one piece, and the training text makes each one vocabulary entry. They
therefore survive when user text is encoded with every control token disabled, as they do in the real model's template.
"""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reranker.model.families import DOCUMENT, HEAD, PREFIX, SUFFIX

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
VOCABULARY_SIZE = 16_000

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
INSTRUCT_MARKER, QUERY_MARKER, DOCUMENT_MARKER = "<instruct>:", "<query>:", "<document>:"  # after lower-casing

_HAN = r"[\u3400-\u9fff]"
_WORD = rf"{INSTRUCT_MARKER}|{QUERY_MARKER}|{DOCUMENT_MARKER}|[a-z]+|\p{{N}}+|[^a-z\p{{N}}\p{{L}}]|\p{{L}}+"

# The second half of a doubled consonant goes with the ending: running, stopped, planned.
_DOUBLED = "|".join(rf"(?<=[a-z][aeiou]{consonant}){consonant}" for consonant in "bdgmnprt")

# English suffixes, tried from the longest remaining stem to the shortest; each line says how long the stem must stay.
_SUFFIXES = "|".join(
    (
        r"(?<=[a-z]{4})if(?:y|ies|ied|ying|iers?|ications?)$",
        r"(?<=[a-z]{5})(?:ations?|at(?:e|es|ed|ing|ors?|ive)|ions?|e?ments?|ives?)$",
        r"(?<=[a-z]{5})(?:als?|ally|ic(?:s|al|ally|ity)?|ness|ful|ity|ities|ous|able)$",
        rf"(?:{_DOUBLED})(?:ing|ed)$",
        r"(?<=[a-z]{3})(?:ings|ing|ed|ies|es|e|y|ly|ers|er|ors|or)$",
        r"(?<=[a-z]{2}[a-rtv-z])s$",
    )
)

# Longest vocabulary entry, in byte-level characters: longer words are rare enough to be spelled in pieces.
_MAX_TOKEN_CHARS = 18


def untrained_tokenizer() -> Tokenizer:
    """Return the tokenizer with its normalizer and word splitter, and no vocabulary yet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(_HAN), "isolated"),
            pre_tokenizers.Split(Regex(_WORD), "isolated"),
            pre_tokenizers.Split(Regex(_SUFFIXES), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from `texts`; the same texts in the same order give the same tokenizer."""
    tokenizer = untrained_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(CONTROL_TOKENS),
        max_token_length=_MAX_TOKEN_CHARS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def spelling(tokenizer: Tokenizer) -> list[str]:
    """Return every token in id order, in the byte-level form of the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy for text that users write: `<|im_end|>` in it is eight plain pieces, never a control token."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(state))


def body(query: str, document: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the body of a prompt: all between the template's two fixed ends."""
    return HEAD.format(instruction=instruction, query=query) + DOCUMENT.format(document=document)


# Every fixed word of the prompt, and both answers: the tokenizer is taught to keep each in one piece.
ALL_TEXT = f"{PREFIX}{body('', '')}{SUFFIX} yes no"
