r"""The families of rerankers we can score with, as data: a row each, its prompt, its answer, its scale.

A row says how models are prompted and scored; which row a checkpoint is of, its own files say (checkpoint.py). What is
of no row is refused: a model prompted with another's template gives plausible numbers that are wrong.

A prompt is head (everything up to the document), document, tail. User text is encoded without the tokens that steer a
model: `<|im_end|>`, `<think>` or `[SEP]` in a document stay text. Other added tokens (runs of spaces, …) stay tokens.

Sources of the prompts, token for token. Qwen3-Reranker: the model card of Qwen/Qwen3-Reranker-0.6B, Transformers code
(the vLLM example beside it has blank lines between the parts: another template, with other scores). Qwen3-VL-Reranker:
qwen3_vl_reranker.jinja of vLLM, which is what its card's code makes of texts. zerank: zerank2.jinja of vLLM.
ctxl-rerank-v2: format_prompts of its card. mxbai-rerank-v2: mxbai_rerank_v2.jinja of vLLM. bge-reranker-v2-gemma:
bge-reranker-v2-gemma.jinja of vLLM, behind the tokenizer's `<bos>`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reranker.errors import UnsupportedModelError
from reranker.model.tokenizer import BatchTokenizer, EncodedTexts
from reranker.types import TokenArray

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
HEAD = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
DOCUMENT = " {document}"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_QWEN3 = PREFIX + HEAD + DOCUMENT + SUFFIX
_QWEN3_VL = PREFIX + HEAD.replace("\n<Query>: ", "<Query>:") + "{document}<|im_end|>\n<|im_start|>assistant\n"
_ZERANK = "<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n"
_CTXL = (
    "Check whether a given document contains information helpful to answer the query.\n"
    "<Document> {document}\n<Query> {query} ??"
)
_MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nquery: {query}\ndocument: {document}\nYou are a search relevance expert who evaluates how well "
    "documents match search queries. For each query-document pair, carefully analyze the semantic relationship between "
    "them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_GEMMA = (
    "<bos>A: {query}\nB: {document}\nGiven a query A and a passage B, determine whether the passage contains an answer "
    "to the query by providing a prediction of either 'Yes' or 'No'."
)

# Tokens that steer a model though its tokenizer does not call them special: Qwen's `<think>` and `<tool_call>`.
_STEERING = re.compile(r"(<\|\w+\|>|</?(?:think|tool_call|tool_response)>|<bos>)")
_NEVER = -1e9  # score of a piece that Unigram must not choose
# (query, document): where a template's parts would grow together with the texts, one of these shows it.
_PROBES = (("What is it?", "A text."), ("为什么", " x\n\ny\n"), ("1 ", "\n  return {}"), ("a\n", ""), ("b?", "(c)"))


class Template(ABC):
    """Makes the parts of a family's prompts."""

    takes_instruction: bool = False
    plain: BatchTokenizer  # for user text: without the tokens that steer a model
    opening: TokenArray  # goes before a piece of a document that is not its beginning
    closing: TokenArray  # goes after one that is not its end

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer from a model's folder; UnsupportedModelError if it does not fit the template."""
        self._with_control, plain = _tokenizers(folder)
        self._whole, self.plain = BatchTokenizer(self._with_control), BatchTokenizer(plain)
        self.opening = self.closing = _ids(())

    @abstractmethod
    def around(self, query: str, instruction: str) -> tuple[TokenArray, TokenArray]: ...  # head and tail

    def documents(self, documents: Sequence[str]) -> EncodedTexts:
        return self.plain.encode_batch(documents)

    def places(self, document: str) -> Sequence[tuple[int, int]]:
        """Give `[start, end)` of each token that `documents` makes, in characters; the template's may lie beyond."""
        return self.plain.places(document)


class PromptTemplate(Template):
    """Makes one text of query and document, with the same ids as the whole text would get.

    The white space around the document is encoded with it, or the punctuation before it: tokenizers join these to what
    they touch.
    """

    def __init__(self, folder: Path, text: str, strips: bool = False) -> None:
        """Find where `text` can be cut.

        Args:
            folder: The model's.
            text: With {query}, {document} and, where the model takes one, {instruction} in their places.
            strips: The white space at the ends of query and document is no part of the prompt.
        """
        super().__init__(folder)
        for token in _STEERING.findall(text):
            if self._with_control.token_to_id(token) is None:
                raise UnsupportedModelError(str(folder), f"its tokenizer has no token {token!r}")
        self.takes_instruction, self._strips = "{instruction}" in text, strips
        before, _ = text.split("{document}")
        heads = (before.rstrip(), re.sub(r"[^\w\s]+$", "", before))
        if not any(self._cut(text, head) for head in heads):
            raise UnsupportedModelError(str(folder), "its tokenizer joins the template of its family to the texts")

    def _cut(self, text: str, head: str) -> bool:
        """Cut behind `head`; False: so cut, prompts have other ids than the whole text."""
        before, after = text.split("{document}")
        tail = after.lstrip()
        opening, closing = before[len(head) :], after[: len(after) - len(tail)]
        self._document = f"{opening}{{document}}{closing}"
        # A space is a part of the first word.
        self.opening = _ids(()) if opening in ("", " ") else self.plain.encode(opening)
        self.closing = self.plain.encode(closing) if closing else _ids(())
        self._head, self._tail = self._parts(head), self._parts(tail)
        return self._strips or all(self._is_whole(text, *probe) for probe in _PROBES)

    def _is_whole(self, text: str, query: str, document: str) -> bool:
        [part], (first, last) = self.documents([document]), self.around(query, "Find.")
        whole = text.format(query=query, document=document, instruction="Find.")
        return bool([*first, *part, *last] == self._whole.encode(whole).tolist())

    def _parts(self, text: str) -> list[TokenArray | str]:
        """Encode what is the same in every prompt."""
        parts = [one for one in _STEERING.split(text) if one]
        return [one if "{" in one else self._whole.encode(one) for one in parts]

    def around(self, query: str, instruction: str) -> tuple[TokenArray, TokenArray]:
        texts = {"query": query.strip() if self._strips else query, "instruction": instruction}
        return self._filled(self._head, texts), self._filled(self._tail, texts)

    def _filled(self, parts: Sequence[TokenArray | str], texts: Mapping[str, str]) -> TokenArray:
        # Query and what stands around it as one string: one that ends in punctuation merges with the newline after it.
        ids = [self.plain.encode(one.format(**texts)) if isinstance(one, str) else one for one in parts]
        return np.concatenate([_ids(()), *ids])

    def documents(self, documents: Sequence[str]) -> EncodedTexts:
        texts = (document.strip() if self._strips else document for document in documents)
        return super().documents([self._document.format(document=text) for text in texts])

    def places(self, document: str) -> Sequence[tuple[int, int]]:
        text = document.strip() if self._strips else document
        shift = self._document.index("{") - (len(document) - len(document.lstrip()) if self._strips else 0)
        return [(start - shift, end - shift) for start, end in super().places(self._document.format(document=text))]


class PairTemplate(Template):
    """A classic cross-encoder's: the tokenizer's own encoding of a pair, such as `[CLS] query [SEP] document [SEP]`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pair: Any = self._with_control.encode("a", "b")  # Any: tokenizers' Encoding, a compiled class
        # Special tokens have a sequence too in some tokenizers.
        sequences = zip(pair.special_tokens_mask, pair.sequence_ids, strict=True)
        place = [None if special else sequence for special, sequence in sequences]
        if 0 not in place or 1 not in place or place.index(1) < place.index(0) or None not in place:
            raise UnsupportedModelError(str(folder), "its tokenizer has no encoding of a pair")
        query, document = place.index(0), place.index(1)
        after_query = max(i for i, sequence in enumerate(place) if sequence == 0) + 1
        after_document = max(i for i, sequence in enumerate(place) if sequence == 1) + 1
        self._before, self._between = _ids(pair.ids[:query]), _ids(pair.ids[after_query:document])
        self._tail = _ids(pair.ids[after_document:])

    def around(self, query: str, instruction: str) -> tuple[TokenArray, TokenArray]:
        return np.concatenate([self._before, self.plain.encode(query), self._between]), self._tail


def _tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """A model's tokenizer, and the same without the tokens that steer a model: it makes none, whatever the text."""
    serialized = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    serialized |= {"truncation": None, "padding": None}  # we cut the document only
    try:
        with_control = Tokenizer.from_str(json.dumps(serialized))
    except Exception as error:  # noqa: BLE001 - the library has no class of its own for it
        raise UnsupportedModelError(str(folder), f"its tokenizer.json makes no tokenizer: {error}") from None
    # The library leaves out those that are marked special; not all are.
    for token in serialized.get("added_tokens", []):
        token["special"] = token["special"] or _STEERING.fullmatch(token["content"]) is not None
    if serialized["model"].get("type") == "Unigram":
        # Its control tokens are pieces like any other, and `</s>` in a text would become one.
        steering = {token["content"] for token in serialized.get("added_tokens", []) if token["special"]}
        pieces = serialized["model"]["vocab"]
        serialized["model"]["vocab"] = [[one, _NEVER if one in steering else score] for one, score in pieces]
    plain = Tokenizer.from_str(json.dumps(serialized))
    plain.encode_special_tokens = True
    return with_control, plain


def _ids(ids: Sequence[int]) -> TokenArray:
    return np.asarray(ids, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are prompted and scored in one way."""

    name: str  # as `model.family` has it
    architecture: str
    models: str  # of this family, and their licences
    verified: str  # how we know that the scores are the model's own
    prompt: str | None = None  # None: the tokenizer's own encoding of a pair
    answer: tuple[str, ...] = ()  # tokens whose logits make the score: (no, yes), or yes. (): the checkpoint's head
    names: str = ""  # pattern of names that say enough about a checkpoint, which has no other sign
    scale: float = 1  # the relevance score is the sigmoid of logit / scale: the mapping that the card publishes
    strips: bool = False  # see PromptTemplate
    instruction: str = ""  # the default of its card, where that is not Qwen3-Reranker's

    @property
    def reads_more(self) -> bool:
        """Whether its models read images too, which we do not send them."""
        return self.architecture.endswith("ForConditionalGeneration")

    @property
    def causal(self) -> bool:
        """Whether tokens see only those before: the pairs of a list can share the computation of their head."""
        return self.prompt is not None

    @property
    def template(self) -> Callable[[Path], Template]:
        return PairTemplate if self.prompt is None else partial(PromptTemplate, text=self.prompt, strips=self.strips)

    @property
    def hf_overrides(self) -> dict[str, object]:
        """For vLLM: its classification head is made of rows of the language model's own."""
        if not self.answer:
            return {}
        return {
            "architectures": [re.sub(r"For\w+", "ForSequenceClassification", self.architecture)],
            "classifier_from_token": list(self.answer),
            "method": "from_2_way_softmax" if len(self.answer) == 2 else "no_post_processing",
            "num_labels": 1,
        }


_TINY = "a tiny checkpoint against Transformers: ids, and logits within 1e-4"
_SENTENCE = "a tiny checkpoint against Sentence Transformers: logits within 1e-4"
FAMILIES = (
    Family(
        "qwen3-reranker",
        "Qwen3ForCausalLM",
        "Qwen/Qwen3-Reranker-0.6B, -4B, -8B (Apache-2.0) and fine-tunes of them",
        "golden ids of the card's code; the demo model and " + _SENTENCE,
        _QWEN3,
        ("no", "yes"),
        r"qwen3-reranker(?!.*seq-?cls)",
    ),
    Family(
        "qwen3-reranker-seq-cls",
        "Qwen3ForSequenceClassification",
        "the same, converted to a classifier (tomaarsen/Qwen3-Reranker-0.6B-seq-cls, …; Apache-2.0)",
        "the demo model, converted; " + _SENTENCE,
        _QWEN3,
        names=r"qwen3-reranker",
    ),
    Family(
        "qwen3-vl-reranker",
        "Qwen3VLForConditionalGeneration",
        "Qwen/Qwen3-VL-Reranker-2B, -8B (Apache-2.0), for texts, with torchvision installed",
        _TINY,
        _QWEN3_VL,
        ("no", "yes"),
        r"qwen3-vl-reranker",
        instruction="Given a search query, retrieve relevant candidates that answer the query.",
    ),
    Family(
        "zerank",
        "Qwen3ForCausalLM",
        "zeroentropy/zerank-1, zerank-2 (CC BY-NC 4.0), zerank-1-small (Apache-2.0)",
        _SENTENCE,
        _ZERANK,
        ("Yes",),
        r"zerank-[12]",
        scale=5,
    ),
    Family(
        "zerank-seq-cls",
        "Qwen3ForSequenceClassification",
        "the same, converted to a classifier (polaria-tech/zerank-2-reranker-vllm, …)",
        _SENTENCE,
        _ZERANK,
        names=r"zerank-[12]",
        scale=5,
    ),
    Family(
        "ctxl-rerank-v2",
        "Qwen3ForCausalLM",
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b, -2b (CC BY-NC-SA 4.0), without their instructions",
        _SENTENCE,
        _CTXL,
        ("!",),
        r"ctxl-rerank-v2",
    ),
    Family(
        "ctxl-rerank-v2-seq-cls",
        "Qwen3ForSequenceClassification",
        "the same, converted to a classifier (sigridjineth/ctxl-rerank-v2-1b-seq-cls, …)",
        _SENTENCE,
        _CTXL,
        names=r"ctxl-rerank-v2",
    ),
    Family(
        "mxbai-rerank-v2",
        "Qwen2ForCausalLM",
        "mixedbread-ai/mxbai-rerank-base-v2, -large-v2 (Apache-2.0), without their instructions",
        _SENTENCE,
        _MXBAI,
        ("0", "1"),
        r"mxbai-rerank-\w+-v2",
    ),
    Family(
        "bge-reranker-v2-gemma",
        "GemmaForCausalLM",
        "BAAI/bge-reranker-v2-gemma (Apache-2.0)",
        _SENTENCE,
        _GEMMA,
        ("Yes",),
        r"bge-reranker-v2-gemma",
    ),
    Family("bert", "BertForSequenceClassification", "cross-encoder/ms-marco-MiniLM-L6-v2, … (Apache-2.0)", _TINY),
    Family("roberta", "RobertaForSequenceClassification", "classic cross-encoders on RoBERTa", _TINY),
    Family(
        "xlm-roberta",
        "XLMRobertaForSequenceClassification",
        "BAAI/bge-reranker-base, -large (MIT), -v2-m3 (Apache-2.0), maidalun1020/bce-reranker-base_v1, …",
        _TINY,
    ),
    Family(
        "modernbert",
        "ModernBertForSequenceClassification",
        "Alibaba-NLP/gte-reranker-modernbert-base, ibm-granite/granite-embedding-reranker-english-r2 (Apache-2.0), …",
        _TINY,
    ),
)

# Architectures of well-known rerankers that are not served, and why.
NOT_SERVED = {
    "ModernBertModel": "ettin-reranker has its head in modules of Sentence Transformers, which the engine lacks",
    "NewForSequenceClassification": "gte-multilingual-reranker needs code of its own repository",
    "LlamaBidirectionalForSequenceClassification": "llama-nemotron-rerank needs code of its own repository",
    "JinaForRanking": "jina-reranker-v3 and v3.5 score a list as one prompt, whose documents see each other: a score "
    "would change with the documents beside it, and no list could be split or remembered",
    "JinaVLForRanking": "jina-reranker-m0 ranks images",
    "MistralForCausalLM": "of ctxl-rerank-v2 only 1b and 2b are Qwen3 models",
    "DebertaV2ForSequenceClassification": "the engine has no DeBERTa",
    "ElectraForSequenceClassification": "the engine has no ELECTRA",
}


def of_architecture(name: str, settings: Mapping[str, Any]) -> tuple[Family, ...]:  # Any: JSON
    """Find the families that config.json leaves; UnsupportedModelError: none, or the head gives several scores."""
    architectures = settings.get("architectures") or []
    families = tuple(one for one in FAMILIES if architectures == [one.architecture])
    if not families:
        known = ", ".join(dict.fromkeys(one.architecture for one in FAMILIES))
        why = next((f" ({NOT_SERVED[one]})" for one in architectures if one in NOT_SERVED), "")
        raise UnsupportedModelError(name, f"its architecture is {architectures}{why}. Known are {known}")
    architecture, kind = families[0].architecture, settings.get("model_type")
    if not kind:
        raise UnsupportedModelError(name, "its config.json has no model_type: the engine cannot tell how to load it")
    if not architecture.lower().startswith(f"{re.sub('[_-]', '', kind)}for"):
        raise UnsupportedModelError(name, f"its model_type is {kind}, and its architecture {architecture}")
    labels = len(settings["id2label"]) if settings.get("id2label") else settings.get("num_labels") or 2
    if "SequenceClassification" in architecture and labels != 1:
        raise UnsupportedModelError(name, f"its head has {labels} labels; a reranker's has one")
    if families[0].causal and settings.get("is_causal") is False:
        raise UnsupportedModelError(
            name, "its tokens see those behind them (is_causal), which no reranker of ours does"
        )
    positions = settings.get("position_embedding_type")
    if architecture.startswith(("Bert", "Roberta", "XLM")) and positions not in (None, "absolute"):
        raise UnsupportedModelError(name, f"its positions are {positions}, which the engine lacks")
    return families


def max_tokens(settings: Mapping[str, Any]) -> int | None:
    """Tokens a prompt may have; None: config.json does not say."""
    positions = settings.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if "roberta" in str(settings.get("model_type")):
        padding = settings.get("pad_token_id")
        return positions - (1 if padding is None else padding) - 1  # their positions start behind the padding's id
    return positions


def has_token_types(settings: Mapping[str, Any]) -> bool:
    return int(settings.get("type_vocab_size") or 0) > 1
