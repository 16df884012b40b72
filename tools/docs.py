"""Write the generated parts of the docs from the code, or check that they are fresh.

python -m tools.docs            writes docs/configuration.md, docs/errors.md, and the table in docs/metrics.md
python -m tools.docs --check    fails when one of them is stale
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from reranker.config import MilvusConfig, RerankerConfig, ScalingConfig, SearchIndexConfig, UIConfig
from reranker.errors import for_clients
from reranker.metrics import Gauge, Histogram, Metric, catalog

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
ERRORS = ROOT / "docs" / "errors.md"
METRICS = ROOT / "docs" / "metrics.md"
_TABLE_BEGINS, _TABLE_ENDS = "<!-- the table, made by `make docs` -->\n", "<!-- end of the table -->\n"

_MADE = "<!-- made by `make docs` from here on -->\n"


def errors_page() -> str:
    """One table row for each error that a client can be answered with."""
    rows = [f"| {one.status_code} | `{one.code}` | {(one.__doc__ or '').splitlines()[0]} |" for one in for_clients()]
    return _written(ERRORS) + "\n".join(["| status | `error_type` | meaning |", "|---|---|---|", *rows, ""])


def configuration_page() -> str:
    """One section for each group, one table row for each key."""
    lines: list[str] = []
    for name, field in RerankerConfig.model_fields.items():
        group = field.annotation
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            raise TypeError(f"{name} is not a group of settings; this generator expects one")
        lines += _section(f"`{name}`", (group.__doc__ or "").strip(), _rows(group))
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


def _written(page: Path) -> str:
    """What is written by hand in front of what is made, and the mark between the two."""
    return page.read_text(encoding="utf-8").partition(_MADE)[0] + _MADE + "\n"


def _section(title: str, text: str, rows: Iterable[str]) -> list[str]:
    return [f"## {title}", "", text, "", "| key | default | meaning |", "|---|---|---|", *rows, ""]


def metrics_page() -> str:
    """docs/metrics.md as it is, with a table that has one row for each metric."""
    before, _, rest = METRICS.read_text(encoding="utf-8").partition(_TABLE_BEGINS)
    _, _, after = rest.partition(_TABLE_ENDS)
    table = []
    for title, of in (("ingress", catalog.INGRESS), ("engine", catalog.ENGINE), ("controller", catalog.CONTROLLER)):
        table += ["", f"| recorded in the {title} | kind | labels | meaning |", "|---|---|---|---|"]
        table += [_metric_row(metric) for metric in of]
    return before + _TABLE_BEGINS + "\n".join(table) + "\n\n" + _TABLE_ENDS + after


def _metric_row(metric: Metric) -> str:
    labels = "; ".join(f"`{one.name}`: {_some(one.values)}" for one in metric.labels)
    kind = type(metric).__name__.lower()
    if isinstance(metric, Histogram):
        kind += ", up to " + " ".join(f"{bound:,g}" for bound in metric.bounds)
    elif isinstance(metric, Gauge):
        kind += f", {metric.across}"
    return f"| `{metric.name}` | {kind} | {labels} | {metric.description} |"


def _some(values: Sequence[str]) -> str:
    return ", ".join(values) if len(values) <= 12 else f"{len(values)} values"


def _rows(group: type[BaseModel], within: str = "", defaults: BaseModel | None = None) -> Iterator[str]:
    for key, field in group.model_fields.items():
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, key)
        if isinstance(default, BaseModel):  # a group within the group
            yield from _rows(type(default), f"{within}{key}.", default)
            continue
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        shown = "required" if default is PydanticUndefined else f"`{json.dumps(default, ensure_ascii=False)}`"
        yield f"| `{within}{key}` | {shown} | {meaning} |"


def main() -> int:
    """Write or check; exit status 1 when a page is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is stale")
    check = parser.parse_args().check
    stale = 0
    for page, fresh in {CONFIGURATION: configuration_page(), ERRORS: errors_page(), METRICS: metrics_page()}.items():
        if not check:
            page.write_text(fresh, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != fresh:
            print(f"{page.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
