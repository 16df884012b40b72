"""Write the generated parts of the docs from the code, or check that they are fresh.

python -m tools.docs            writes docs/{configuration,errors}.md, and the tables in docs/{api,metrics,models}.md
python -m tools.docs --check    fails when one of them is stale
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import is_typeddict

from deployments.autoscaling import GAUGES
from reranker import metrics
from reranker.config import (
    CascadeConfig,
    MilvusConfig,
    RerankerConfig,
    SampleConfig,
    ScalingConfig,
    SearchIndexConfig,
    ShadowConfig,
    UIConfig,
)
from reranker.dialects import COMPLETE, DIALECTS, SHARED_PATHS
from reranker.dialects.answers import Tail
from reranker.engine import metrics as engine_metrics
from reranker.engine.cards import CLASSES, FP8_CAPABILITY, ON_A_CPU, CardClass, Settings
from reranker.errors import for_clients
from reranker.metrics import metrics_of
from reranker.model.families import FAMILIES, NOT_SERVED
from reranker.ranking import agreement

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
ERRORS = ROOT / "docs" / "errors.md"
API = ROOT / "docs" / "api.md"
METRICS = ROOT / "docs" / "metrics.md"
MODELS = ROOT / "docs" / "models.md"
_TABLE_BEGINS, _TABLE_ENDS = "<!-- the table, made by `make docs` -->\n", "<!-- end of the table -->\n"

_CONFIGURED = "model", "deployment"  # labels whose values are names in a configuration
_MADE = "<!-- made by `make docs` from here on -->\n"


def errors_page() -> str:
    """One table row for each error that a client can be answered with."""
    rows = [f"| {one.status_code} | `{one.code}` | {(one.__doc__ or '').splitlines()[0]} |" for one in for_clients()]
    return _written(ERRORS) + "\n".join(["| status | `error_type` | meaning |", "|---|---|---|", *rows, ""])


def configuration_page() -> str:
    """One section for each group, one table row for each key."""
    lines: list[str] = []
    several: list[str] = []
    for name, field in RerankerConfig.model_fields.items():
        group = field.annotation
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            several.append(_row(name, field, field.get_default(call_default_factory=True)))
            continue
        lines += _section(f"`{name}`", (group.__doc__ or "").strip(), _rows(group))
    said = (
        "Each of `models` has the keys of `model`, and an `engine` with its keys ([several models](several-models.md))."
    )
    lines += _section("Several models", said, several)
    lines += _section("A cascade of `cascades`", "Keys of `cascades.NAME`.", _rows(CascadeConfig))
    shadow = [one for one in _rows(ShadowConfig) if not one.startswith("| `sample`")]
    said = "Keys of each of `shadows` ([several models](several-models.md#shadows))."
    lines += _section("A shadow of `shadows`", said, [*shadow, *_rows(SampleConfig, "sample.")])
    lines += _cards()
    index = [*_rows(SearchIndexConfig), *_rows(MilvusConfig, "milvus.")]
    lines += _section("An index of `search.indexes`", "Keys of `search.indexes.NAME` ([search](search.md)).", index)
    policy = (
        "Not `args`, but `policy_kwargs` of `deployments.autoscaling:QueueTime` in the engine's `autoscaling_config`\n"
        "([scaling](scaling.md))."
    )
    lines += _section("The autoscaling policy", policy, _rows(ScalingConfig))
    playground = "`args` of its own application, `deployments.ui.app:build_ui` ([playground](playground.md))."
    lines += _section("The playground", playground, _rows(UIConfig))
    return _written(CONFIGURATION) + "\n".join(lines)


_CARDS_TEXT = """`reranker config show` says what this machine's card gets, `--card L4` what another would. The first
row that fits counts; `max_batch_tokens` is halved, down to 2,048, where two batches would take more than half of the
memory that a model's weights leave. **No row was measured on a GPU.** FP8 is never chosen by itself: it changes
scores."""


def _cards() -> Iterator[str]:
    """What an engine has by its card where the configuration says nothing."""
    yield from ("## Settings by card", "", (CardClass.__doc__ or "").strip(), "")
    yield _CARDS_TEXT
    yield ""
    keys = [f"`{name}`" for name in Settings._fields]
    yield f"| card | compute capability | GiB | {' | '.join(keys)} | computes in FP8 |"
    yield f"|{'---|' * (4 + len(keys))}"
    for one in CLASSES:
        tokens, pairs, share, graphs = one.settings
        least = f"{'.'.join(map(str, one.capability))} | {one.gib:g}" if one.gib else "– | –"
        fp8 = "yes" if one.capability >= FP8_CAPABILITY else "from 8.9" if one.gib else "no"
        yield f"| {one.name} | {least} | {tokens:,} | {pairs} | {share} | up to {max(graphs):,} | {fp8} |"
    yield f"| a CPU | | | {ON_A_CPU.max_batch_tokens:,} | {ON_A_CPU.max_batch_pairs} | | | |"
    yield ""


def _written(page: Path) -> str:
    """What is written by hand in front of what is made, and the mark between the two."""
    return page.read_text(encoding="utf-8").partition(_MADE)[0] + _MADE + "\n"


def _section(title: str, text: str, rows: Iterable[str]) -> list[str]:
    return [f"## {title}", "", text, "", "| key | default | meaning |", "|---|---|---|", *rows, ""]


def metrics_page() -> str:
    """docs/metrics.md as it is, with a table that has one row for each metric."""
    table = []
    for title, modules in (("an ingress", (metrics, agreement)), ("an engine replica", (engine_metrics,))):
        table += ["", f"| counted in {title} | kind | labels | meaning |", "|---|---|---|---|"]
        table += [_metric_row(one) for module in modules for one in metrics_of(module)]
    table += ["", "| set in Serve's controller | kind | labels | meaning |", "|---|---|---|---|"]
    table += [f"| `ray_{name}` | gauge | {_names(labels)} | {text} |" for name, (text, labels) in GAUGES.items()]
    return _with_table(METRICS, table)


def models_page() -> str:
    """docs/models.md as it is, with a table that has one row for each family."""
    table = ["", "| family | architecture | models | score | verified |", "|---|---|---|---|---|"]
    for one in FAMILIES:
        logit = " − ".join(f'logit("{token}")' for token in reversed(one.answer)) or "the head's logit"
        score = f"sigmoid({logit})" if one.scale == 1 else f"sigmoid({logit} / {one.scale:g})"
        table.append(f"| `{one.name}` | `{one.architecture}` | {one.models} | {score} | {one.verified} |")
    table += ["", "| architecture | not served, because |", "|---|---|"]
    table += [f"| `{architecture}` | {why} |" for architecture, why in NOT_SERVED.items()]
    return _with_table(MODELS, table)


def api_page() -> str:
    """docs/api.md as it is, with a table that has one row for each dialect."""
    shared = ", ".join(f"`{path}`" for path in SHARED_PATHS)
    table = [f"Shared: {shared}.", "", "| dialect | by path | on a shared path, by | answer |", "|---|---|---|---|"]
    for one in DIALECTS:
        complete = [f"`{prefix}/v1/rerank`*" for prefix, spoken in COMPLETE.items() if spoken is one]
        paths = ", ".join([*(f"`{path}`" for path in one.paths), *complete])
        kind = ", an object" * (one.chosen_as is dict) + ", a list" * (one.chosen_as is list)
        chosen = ", ".join(f"`{name}`{kind}" for name in one.chosen_by)
        if one is DIALECTS[0]:
            chosen = "none of the others' fields"
        table.append(f"| {one.name} | {paths} | {chosen} | `{_shape(one.answer)}` |")
    return _with_table(API, table)


def _shape(kind: Any) -> str:  # Any: a type
    """What of an answer holds the results."""
    if get_origin(kind) is list:
        return f"[{_shape(get_args(kind)[0])}]"
    if not is_typeddict(kind):
        return str(kind.__name__)
    plain, hints = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    always = {name: of for name, of in plain.items() if get_origin(hints[name]) is not NotRequired}
    lists = {name: _shape(of) for name, of in always.items() if name not in Tail.__annotations__ and _holds_list(of)}
    if lists:
        return "{" + ", ".join(f"{name}: {shape}" for name, shape in lists.items()) + ", …}"
    return "{" + ", ".join(name + "?" * (get_origin(hints[name]) is NotRequired) for name in plain) + "}"


def _holds_list(kind: Any) -> bool:  # Any: a type
    return get_origin(kind) is list or (is_typeddict(kind) and any(map(_holds_list, get_type_hints(kind).values())))


def _with_table(page: Path, table: Sequence[str]) -> str:
    before, _, rest = page.read_text(encoding="utf-8").partition(_TABLE_BEGINS)
    _, _, after = rest.partition(_TABLE_ENDS)
    return before + _TABLE_BEGINS + "\n".join(table) + "\n\n" + _TABLE_ENDS + after


def _metric_row(metric: MetricWrapperBase) -> str:
    [family] = metric.describe()
    kind = family.type
    if isinstance(metric, Histogram):
        kind += ", up to " + " ".join(f"{bound:,g}" for bound in metric._upper_bounds[:-1])
    labels = _names(metric._labelnames)
    if (
        len(metric._labelnames) == 1 and metric._labelnames[0] not in _CONFIGURED
    ):  # all of its series are there from the start
        labels += ": " + ", ".join(value for (value,) in metric._metrics)
    name = family.name + "_total" * (kind == "counter")
    return f"| `{name}` | {kind} | {labels} | {family.documentation} |"


def _names(labels: Sequence[str]) -> str:
    return ", ".join(f"`{one}`" for one in labels)


def _rows(group: type[BaseModel], within: str = "", defaults: BaseModel | None = None) -> Iterator[str]:
    for key, field in group.model_fields.items():
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, key)
        if isinstance(default, BaseModel):  # a group within the group
            yield from _rows(type(default), f"{within}{key}.", default)
            continue
        yield _row(f"{within}{field.alias or key}", field, default)


def _row(key: str, field: FieldInfo, default: object) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    shown = "required" if default is PydanticUndefined else f"`{json.dumps(default, ensure_ascii=False)}`"
    return f"| `{key}` | {shown} | {meaning} |"


def main() -> int:
    """Write or check; exit status 1 when a page is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is stale")
    check = parser.parse_args().check
    stale = 0
    pages = {CONFIGURATION: configuration_page(), ERRORS: errors_page()}
    pages |= {API: api_page(), METRICS: metrics_page(), MODELS: models_page()}
    for page, fresh in pages.items():
        if not check:
            page.write_text(fresh, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != fresh:
            print(f"{page.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
