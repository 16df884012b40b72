"""Write the generated parts of the docs from the code, or check that they are fresh.

python -m tools.docs            writes docs/configuration.md, docs/errors.md, and the table in docs/metrics.md
python -m tools.docs --check    fails when one of them is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from deployments.autoscaling import GAUGES
from reranker import metrics
from reranker.config import MilvusConfig, RerankerConfig, ScalingConfig, SearchIndexConfig, UIConfig
from reranker.engine import metrics as engine_metrics
from reranker.engine.startup_check import CHECKS
from reranker.errors import for_clients
from reranker.node_metrics import metrics_of

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
ERRORS = ROOT / "docs" / "errors.md"
METRICS = ROOT / "docs" / "metrics.md"
_TABLE_BEGINS, _TABLE_ENDS = "<!-- the table, made by `make docs` -->\n", "<!-- end of the table -->\n"

_HEAD = """\
# Configuration

<!-- Generated from reranker/config/ by `make docs`; `make check` fails when it is stale. -->

These are the `args` of the application in `serve_config.yaml`. Unknown keys and wrong values stop the start with a
message that names the key. What Ray Serve itself configures (replicas, autoscaling, host and port) stays in Ray's own
places in that file; note that Ray *replaces* a deployment's settings given there and does not merge them: with
`ray_actor_options` in the file, the cores and the GPU that the application asks for are gone.

`reranker config check FILE…` says, with line and remedy, what is wrong in such a file, Ray's part included: misspelt
keys (Ray itself ignores them), wrong values, and settings that contradict each other. It also reads a RayService
manifest and compares the configuration in it with the pods:
`kubectl kustomize k8s/overlays/prod | reranker config check -`.

```yaml
args:
  model:
    name: Qwen/Qwen3-Reranker-0.6B
  engine:
    max_batch_tokens: 16384
```
"""


_ERRORS_HEAD = """\
# Errors

<!-- Generated from reranker/errors.py by `make docs`; `make check` fails when it is stale. -->

Every error is JSON, on every path and status: `{message, detail, error, error_type, field?}`, all strings, so that each
client finds the sentence under the name it looks for. `error_type` does not change with the wording. `field` is the
place in the request: `documents[3].text`. On `/score`, `error` is an object as vLLM has it (`message`, `type`, `param`,
`code`); in TEI's dialect `error_type` is TEI's own word and `code` is ours.

429 and 503 come with `Retry-After`, in seconds. 503 is only for a service that is not ready: under load it is 429.
404 and 405 have the `error_type` `http_404` and `http_405`.

| status | `error_type` | meaning |
|---|---|---|
"""


_SCALING_HEAD = """\
## The autoscaling policy

Not `args`, but `policy_kwargs` of `deployments.autoscaling:QueueTime` in the engine's `autoscaling_config`
([scaling](scaling.md)).

| key | default | meaning |
|---|---|---|"""


_UI_HEAD = """\
## The playground

`args` of its own application, `deployments.ui.app:build_ui` ([playground](playground.md)).

| key | default | meaning |
|---|---|---|"""


_INDEX_HEAD = """\
## An index of `search.indexes`

Keys of `search.indexes.NAME` ([search](search.md)).

| key | default | meaning |
|---|---|---|"""


def errors_page() -> str:
    """One table row for each error that a client can be answered with."""
    rows = [f"| {one.status_code} | `{one.code}` | {(one.__doc__ or '').splitlines()[0]} |" for one in for_clients()]
    return _ERRORS_HEAD + "\n".join(rows) + "\n"


def configuration_page() -> str:
    """One section for each group, one table row for each key."""
    lines = [_HEAD]
    for name, field in RerankerConfig.model_fields.items():
        group = field.annotation
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            raise TypeError(f"{name} is not a group of settings; this generator expects one")
        lines += [f"## `{name}`", "", (group.__doc__ or "").strip(), "", "| key | default | meaning |", "|---|---|---|"]
        lines += list(_rows(group))
        lines.append("")
    lines += [_INDEX_HEAD, *_rows(SearchIndexConfig), *_rows(MilvusConfig, "milvus."), ""]
    lines += [_SCALING_HEAD, *_rows(ScalingConfig), ""]
    lines += [_UI_HEAD, *_rows(UIConfig), ""]
    return "\n".join(lines)


def metrics_page() -> str:
    """docs/metrics.md as it is, with a table that has one row for each metric."""
    before, _, rest = METRICS.read_text(encoding="utf-8").partition(_TABLE_BEGINS)
    _, _, after = rest.partition(_TABLE_ENDS)
    engine_metrics.EngineMetrics(CHECKS)  # it makes their series
    table = []
    for title, module in (("an ingress", metrics), ("an engine replica", engine_metrics)):
        table += ["", f"| counted in {title} | kind | labels | meaning |", "|---|---|---|---|"]
        table += [_metric_row(one) for one in metrics_of(module)]
    table += ["", "| set in Serve's controller | kind | labels | meaning |", "|---|---|---|---|"]
    table += [f"| `ray_{name}` | gauge | {_names(labels)} | {text} |" for name, (text, labels) in GAUGES.items()]
    return before + _TABLE_BEGINS + "\n".join(table) + "\n\n" + _TABLE_ENDS + after


def _metric_row(metric: MetricWrapperBase) -> str:
    [family] = metric.describe()
    kind = family.type
    if isinstance(metric, Histogram):
        kind += ", up to " + " ".join(f"{bound:,g}" for bound in metric._upper_bounds[:-1])
    labels = _names(metric._labelnames)
    if len(metric._labelnames) == 1:  # all of its series are there from the start
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
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        shown = "required" if default is PydanticUndefined else f"`{json.dumps(default, ensure_ascii=False)}`"
        yield f"| `{within}{key}` | {shown} | {meaning} |"


def main() -> int:
    """Write or check.

    Returns:
        Exit status: 1 when a page is stale.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is stale")
    check = parser.parse_args().check
    stale = 0
    for page, fresh in (
        (CONFIGURATION, configuration_page()),
        (ERRORS, errors_page()),
        (METRICS, metrics_page()),
    ):
        if not check:
            page.write_text(fresh, encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != fresh:
            print(f"{page.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
