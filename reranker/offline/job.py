"""One batch, as the process that drives it and those that score it know it; and what is said of it at the end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from reranker.config import RerankerConfig
from reranker.model.prompt import PromptRenderer
from reranker.offline.folder import BatchFolder, Terms
from reranker.offline.inputs import Input


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, with what, and where the scores go."""

    found: Input
    folder: BatchFolder
    config: RerankerConfig
    instruction: str | None
    """What "relevant" means. None: as configured."""
    adapter: str
    """One of `engine.lora_adapters`; empty: the model itself."""
    partition_rows: int

    def terms(self, model: str, renderer: PromptRenderer) -> Terms:
        """What the scores depend on, for an engine of this digest."""
        return Terms(
            model=model,
            prompts=renderer.fingerprint,
            adapter=self.adapter,
            instruction=self.config.model.instruction_text(self.instruction),
            long_documents=self.config.long_documents.model_dump(),
            columns={} if self.found.form == "ids" else dataclasses.asdict(self.found.columns),
            output=self.folder.output,
            partition_rows=self.partition_rows,
        )


def for_throughput(config: RerankerConfig) -> RerankerConfig:
    """The configuration for engines that nobody waits for: full batches, and one query after the other."""
    engine = config.engine.model_copy(update={"scheduling": "fcfs", "target_step_s": None})
    return config.model_copy(update={"engine": engine})


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `reranker batch` did."""

    rows: int
    """Of the whole input."""
    failed_rows: int
    """Of them, those without a score."""
    rows_now: int
    """Scored by this run; the others were there."""
    pairs: int
    """Prompts scored by this run; windows of long documents count each."""
    prompt_tokens: int
    work_tokens: int
    engines: int
    start_s: float
    """From the start until the first partition was begun: reading the input, Ray, loading the model."""
    scoring_s: float
    """From then until the last one was done."""
    read_s: float
    """Sums over the engines, of stages that overlap."""
    render_s: float
    write_s: float
    finish_s: float
    """In making errors.jsonl and run.trec."""
    engine_busy: float | None
    """Share of the scoring in which an engine had work, mean of the engines. None: nothing was scored."""

    @property
    def pairs_per_s(self) -> float:
        """While it scored."""
        return self.pairs / self.scoring_s if self.scoring_s else math.nan

    @classmethod
    def of(
        cls, records: Iterable[Mapping[str, Any]], rows: int, failed: int, started_s: float, finish_s: float
    ) -> Self:
        """Sum up.

        Args:
            records: Of the partitions that this run scored. (Any: JSON.)
            rows: Of the whole input.
            failed: Of them.
            started_s: When the run began, in seconds since 1970.
            finish_s: See the attribute.
        """
        records = list(records)
        engines: dict[str, tuple[float, float]] = {}
        for one in records:  # the last word of each engine counts, and its seconds only rise
            seen = engines.get(one["engine"], (0.0, 0.0))
            engines[one["engine"]] = max(seen, (one["engine_up_s"], one["engine_busy_s"]))
        begun_s = min((one["begun_s"] for one in records), default=started_s)
        up_s = sum(up for up, _ in engines.values())
        return cls(
            rows=rows,
            failed_rows=failed,
            rows_now=sum(one["rows"] for one in records),
            engines=len(engines),
            start_s=begun_s - started_s,
            scoring_s=max((one["done_s"] for one in records), default=begun_s) - begun_s,
            finish_s=finish_s,
            engine_busy=sum(busy for _, busy in engines.values()) / up_s if up_s else None,
            **{name: sum(one[name] for one in records) for name in _SUMMED},
        )

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{self.rows} rows, {self.failed_rows} without a score (errors.jsonl); {self.rows_now} scored now"]
        if self.engine_busy is None:
            return said
        tokens_per_s, work_per_s = self.prompt_tokens / self.scoring_s, self.work_tokens / self.scoring_s
        on = f"{self.engines} engine{'s' * (self.engines > 1)}, at work {self.engine_busy:.0%} of the time"
        beside = f"reading {self.read_s:.1f}, prompts {self.render_s:.1f}, writing {self.write_s:.1f}"
        said += [
            f"{self.pairs_per_s:.1f} pairs/s, {tokens_per_s:.0f} tokens/s on {on}",
            f"{work_per_s:.0f} tokens/s are left to compute when pairs of a query share their head",
            f"seconds: start {self.start_s:.1f}, scoring {self.scoring_s:.1f} (with {beside}), end {self.finish_s:.1f}",
        ]
        return said


_SUMMED = ("pairs", "prompt_tokens", "work_tokens", "read_s", "render_s", "write_s")
