"""Write the generated parts of the docs from the code, or check that they are fresh.

python -m tools.docs            writes docs/configuration.md
python -m tools.docs --check    fails when it is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from reranker.config import RerankerConfig

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"

_HEAD = """\
# Configuration

<!-- Generated from reranker/config/ by `make docs`; `make check` fails when it is stale. -->

These are the `args` of the application in `serve_config.yaml`. Unknown keys and wrong values stop the start with a
message that names the key. What Ray Serve itself configures (replicas, autoscaling, host and port) stays in Ray's own
places in that file; note that Ray *replaces* a deployment's settings given there and does not merge them: with
`ray_actor_options` in the file, the cores and the GPU that the application asks for are gone.

```yaml
args:
  model:
    name: Qwen/Qwen3-Reranker-0.6B
  engine:
    max_batch_tokens: 16384
```
"""


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
    return "\n".join(lines)


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
    fresh = configuration_page()
    if not parser.parse_args().check:
        CONFIGURATION.write_text(fresh, encoding="utf-8")
        return 0
    if not CONFIGURATION.is_file() or CONFIGURATION.read_text(encoding="utf-8") != fresh:
        print(f"{CONFIGURATION.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
