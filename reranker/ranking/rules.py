"""What happens after scoring: which documents are left out of the answer, and by which rule. Pure.

Nothing is dropped silently: every excluded document is reported with its rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from reranker.config import ExclusionRule, RulesConfig
from reranker.types import ExcludedDocument, RankedDocument, RankRequest

THRESHOLD = "score_threshold"
"""Name under which documents below the threshold are reported."""


def apply(
    ranked: Sequence[RankedDocument], request: RankRequest, config: RulesConfig
) -> tuple[tuple[RankedDocument, ...], tuple[ExcludedDocument, ...]]:
    """Part a ranking into what stays, in its order, and what a rule excludes, by index.

    Args:
        ranked: All documents of the list, best first.
        request: Its documents, their metadata, and its own threshold if it has one.
        config: Configured rules; exclusion rules go before the threshold.
    """
    threshold = config.score_threshold if request.score_threshold is None else request.score_threshold
    kept: list[RankedDocument] = []
    excluded: list[ExcludedDocument] = []
    for document in ranked:
        metadata = request.metadata[document.index] if request.metadata else {}
        rule = _matching_rule(request.documents[document.index], metadata, config.exclude)
        if rule is None and threshold is not None and document.relevance_score < threshold:
            rule = THRESHOLD
        if rule is None:
            kept.append(document)
        else:
            excluded.append(ExcludedDocument(document.index, rule))
    return tuple(kept), tuple(sorted(excluded, key=lambda one: one.index))


def _matching_rule(text: str, metadata: Mapping[str, object], rules: Sequence[ExclusionRule]) -> str | None:
    for rule in rules:
        if rule.pattern is not None and re.search(rule.pattern, text) is None:
            continue
        if all(same(field_of(metadata, name), value) for name, value in rule.metadata.items()):
            return rule.name
    return None


ABSENT = object()
"""What a field is that a document does not have."""


def field_of(metadata: Mapping[str, object], name: str) -> object:
    """Read a field; a dotted name reaches into objects, unless a field has the whole name."""
    if name in metadata:
        return metadata[name]
    value: object = metadata
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT
        value = value[part]
    return value


def same(found: object, wanted: object) -> bool:
    """Whether a field's value is the one that is wanted; a list of tags is when it holds it."""
    # True is not 1: the types must be equal, too.
    if isinstance(found, list):
        return any(same(one, wanted) for one in found)
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
