"""What the dashboard shows: rows of panels, each with its queries to Ray's exporter. Knows nothing of Grafana."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = "$__rate_interval"
"""Grafana puts in what suits the scrape interval and the zoom; whoever draws without it puts in their own."""
ENGINE = '{deployment="EngineReplica"}'


@dataclass(frozen=True, slots=True)
class Query:
    """One or several lines of a panel."""

    promql: str
    legend: str
    """May name labels: {{stage}}."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """As Grafana calls it: s, percentunit, reqps, bytes, short."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def _rate(name: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate(ray_reranker_{name}[{WINDOW}]))"


def _quantile(quantile: float, name: str, by: str = "", selector: str = "") -> str:
    labels = ", ".join(filter(None, ("le", by)))
    buckets = f"ray_reranker_{name}_bucket_total{selector}"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({buckets}[{WINDOW}])))"


def _mean(name: str) -> str:
    return f"{_rate(f'{name}_sum_total')} / {_rate(f'{name}_count_total')}"


_ANSWERED = '{result="answered"}'
_5XX = f'sum(rate(ray_reranker_request_duration_seconds_count_total{{result="failed"}}[{WINDOW}]))'
_ALL = f"sum(rate(ray_reranker_request_duration_seconds_count_total[{WINDOW}]))"
_KNOWN = f"{_rate('cache_hits_total')} + {_rate('cache_coalesced_total')}"

ROWS = (
    Row(
        "Are lists answered, and in time?",
        (
            Panel(
                "Requests per second, by outcome",
                "How requests for a ranking ended: answered, partial, client_gone, or the error's code.",
                (Query(_rate("requests_total", "outcome"), "{{outcome}}"),),
                "reqps",
            ),
            Panel(
                "Share that failed, and that was refused",
                "Failed: 5xx, ours. Refused: 4xx, with 429 among them.",
                (
                    Query(f"{_5XX} / {_ALL}", "failed (5xx)"),
                    Query(f"{_5XX.replace('failed', 'refused')} / {_ALL}", "refused (4xx)"),
                ),
                "percentunit",
            ),
            Panel(
                "Time to answer",
                "From a request's head to its answer; answered requests only.",
                tuple(
                    Query(_quantile(q, "request_duration_seconds", selector=_ANSWERED), f"p{q * 100:g}")
                    for q in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "Documents and pairs per second",
                "Documents of answered requests; pairs that engines scored for them. Cache and repeats are between.",
                (
                    Query(_rate("documents_total"), "documents"),
                    Query(_rate("scored_pairs_total"), "pairs scored"),
                ),
            ),
            Panel(
                "Tokens per second",
                "Prompt tokens as `usage` counts them, and what engines had to compute for them.",
                (
                    Query(_rate("prompt_tokens_total"), "in answers"),
                    Query(_rate("scored_tokens_total"), "scored for answers"),
                    Query(_rate("engine_tokens_total"), "computed in engines"),
                ),
            ),
            Panel(
                "Requests per second, by dialect",
                "Which clients there are.",
                (Query(_rate("requests_total", "dialect"), "{{dialect}}"),),
                "reqps",
            ),
        ),
    ),
    Row(
        "Where does the time go?",
        (
            Panel(
                "Seconds of a request, by stage (mean)",
                "Stages overlap: one portion of a list is tokenized while another is scored.",
                (
                    Query(
                        f"{_rate('stage_duration_seconds_sum_total', 'stage')} / ignoring (stage) group_left "
                        + _rate("request_documents_count_total"),
                        "{{stage}}",
                    ),
                ),
                "s",
            ),
            Panel(
                "Seconds of a request, by stage (p95)",
                "Of the requests that had the stage.",
                (Query(_quantile(0.95, "stage_duration_seconds", "stage"), "{{stage}}"),),
                "s",
            ),
            Panel(
                "Documents of a request",
                "How long the lists are.",
                (
                    Query(_quantile(0.5, "request_documents"), "p50"),
                    Query(_quantile(0.95, "request_documents"), "p95"),
                    Query(_mean("request_documents"), "mean"),
                ),
            ),
            Panel(
                "Tokens of a request",
                "How much work the lists are.",
                (
                    Query(_quantile(0.5, "request_tokens"), "p50"),
                    Query(_quantile(0.95, "request_tokens"), "p95"),
                    Query(_mean("request_tokens"), "mean"),
                ),
            ),
        ),
    ),
    Row(
        "What limits it?",
        (
            Panel(
                "In flight",
                "Requests that were let in and not answered yet, and their shards at replicas.",
                (
                    Query("sum(ray_reranker_requests_in_flight)", "requests"),
                    Query("sum(ray_reranker_shards_in_flight)", "shards"),
                ),
            ),
            Panel(
                "Tokens waiting",
                "Of requests that were let in; in all engines; in the engine that has most.",
                (
                    Query("sum(ray_reranker_tokens_in_flight)", "let in"),
                    Query("sum(ray_reranker_engine_queued_tokens)", "in engines"),
                    Query("max(ray_reranker_engine_queued_tokens_max)", "in the fullest engine"),
                ),
            ),
            Panel(
                "Engines busy",
                "Share of the time in which engines had work. At 1 they are the limit; well below, the ingress is.",
                (
                    Query(
                        f"{_rate('engine_busy_seconds_total')} / sum(ray_reranker_engines)",
                        "busy",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Pairs per batch",
                "How full the batches are that engines compute.",
                (Query(f"{_rate('engine_pairs_total')} / {_rate('engine_steps_total')}", "pairs per step"),),
            ),
            Panel(
                "vLLM: pairs running and waiting",
                "Our own queue is in front of vLLM's: what waits there was given to it for the next step.",
                (
                    Query("sum(ray_reranker_vllm_requests_running)", "running"),
                    Query("sum(ray_reranker_vllm_requests_waiting)", "waiting"),
                ),
            ),
            Panel(
                "vLLM: prefix cache and KV cache",
                "Share of prompt tokens that the prefix cache had; share of the KV cache in use in the fullest engine.",
                (
                    Query(
                        f"{_rate('vllm_prefix_cache_hit_tokens_total')} / "
                        + _rate("vllm_prefix_cache_queried_tokens_total"),
                        "prefix cache hits",
                    ),
                    Query("max(ray_reranker_vllm_kv_cache_usage_ratio)", "KV cache in use"),
                ),
                "percentunit",
            ),
        ),
    ),
    Row(
        "How well is a list spread?",
        (
            Panel(
                "Shards and replicas of a request (mean)",
                "Equal: each shard of a list had a replica to itself.",
                (
                    Query(_mean("request_shards"), "shards"),
                    Query(_mean("request_replicas"), "distinct replicas"),
                ),
            ),
            Panel(
                "Slowest shard over the median",
                "Of requests with two shards or more. 1: all replicas end together.",
                (
                    Query(_quantile(0.5, "slowest_shard_ratio"), "p50"),
                    Query(_quantile(0.95, "slowest_shard_ratio"), "p95"),
                ),
            ),
            Panel(
                "Shards sent again",
                "Retried: their replica was lost. Hedged: it lagged. Dropped: nobody waited any more.",
                (
                    Query(_rate("retried_shards_total"), "retried"),
                    Query(_rate("hedged_shards_total"), "hedged"),
                    Query(_rate("dropped_shards_total"), "dropped"),
                ),
            ),
        ),
    ),
    Row(
        "What does the cache save?",
        (
            Panel(
                "Documents per second",
                "Distinct documents: known; being scored for another list; scored. Repeated: within their list.",
                (
                    Query(_rate("cache_hits_total"), "known"),
                    Query(_rate("cache_coalesced_total"), "shared"),
                    Query(_rate("cache_misses_total"), "scored"),
                    Query(_rate("deduplicated_pairs_total"), "repeated"),
                ),
            ),
            Panel(
                "Share of documents that were known",
                "Or were being scored for another list.",
                (
                    Query(
                        f"({_KNOWN}) / ({_KNOWN} + {_rate('cache_misses_total')})",
                        "known",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Memory for scores",
                "Of all ingress replicas together.",
                (Query("sum(ray_reranker_cache_bytes)", "in use"),),
                "bytes",
            ),
            Panel(
                "Redis",
                "Nothing where there is none. Skipped: left out because it did not work lately.",
                (
                    Query(_quantile(0.95, "cache_redis_seconds"), "p95 of a look-up, seconds"),
                    Query(_rate("cache_redis_errors_total"), "errors per second"),
                    Query(_rate("cache_redis_skipped_total"), "skipped per second"),
                ),
            ),
        ),
    ),
    Row(
        "Are there enough replicas?",
        (
            Panel(
                "Engine replicas: needed, wanted, healthy",
                "Needed: by the work of this moment. Wanted: by the policy, before bounds.",
                (
                    Query(f"max(ray_reranker_scaling_needed_replicas{ENGINE})", "needed now"),
                    Query(f"max(ray_reranker_scaling_wanted_replicas{ENGINE})", "wanted"),
                    Query(f"sum(ray_serve_deployment_replica_healthy{ENGINE})", "healthy"),
                    Query("max(ray_reranker_live_replicas)", "known to the ingress"),
                ),
            ),
            Panel(
                "Expected wait for an engine",
                "What the policy keeps below its target.",
                (Query(f"max(ray_reranker_scaling_queue_seconds{ENGINE})", "queue"),),
                "s",
            ),
            Panel(
                "Why there are so many",
                "The reason of the policy's last decision.",
                (Query(f"max by (reason) (ray_reranker_scaling_reason{ENGINE})", "{{reason}}"),),
            ),
            Panel(
                "Replicas: time to load, and starts",
                "Load: from a replica's start to its being able to score.",
                (
                    Query(_mean("engine_load_seconds"), "mean load, seconds"),
                    Query(
                        f"sum(increase(ray_reranker_engine_load_seconds_count_total[{WINDOW}]))",
                        "replicas that loaded",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "What went wrong?",
        (
            Panel(
                "HTTP answers per second, by status",
                "On all paths. 499: the client had gone.",
                (Query(_rate("http_responses_total", "status"), "{{status}}"),),
                "reqps",
            ),
            Panel(
                "Refused before any work, by reason",
                "queue: those here already. key: the key's own limits. too_large: more than is ever let in.",
                (Query(_rate("admission_refusals_total", "reason"), "{{reason}}"),),
                "reqps",
            ),
            Panel(
                "Documents not scored whole, per second",
                "Truncated, in several windows, left out by a rule, not scored in time.",
                (
                    Query(_rate("truncated_documents_total"), "truncated"),
                    Query(_rate("windowed_documents_total"), "in windows"),
                    Query(_rate("excluded_documents_total"), "excluded"),
                    Query(_rate("unscored_documents_total"), "unscored"),
                ),
            ),
            Panel(
                "Replica starts, failed health checks, failed start-up checks",
                "By Serve's count; within the window.",
                (
                    Query(
                        f"sum by (deployment) (increase(ray_serve_deployment_replica_starts_total[{WINDOW}]))",
                        "starts: {{deployment}}",
                    ),
                    Query(
                        f'sum(increase(ray_reranker_engine_startup_checks_total{{result!~"passed|off"}}[{WINDOW}]))',
                        "failed start-up checks",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Is the control plane well?",
        (
            Panel(
                "Serve's controller: one round",
                "Scaling and recovery lag when this grows.",
                (Query("max(ray_serve_controller_control_loop_duration_s)", "seconds"),),
                "s",
            ),
            Panel(
                "Applications",
                "1: DEPLOY_FAILED. 5 and 6 are well: see the runbook.",
                (Query("max by (application) (ray_serve_application_status)", "{{application}}"),),
            ),
            Panel(
                "Processors and memory of the nodes",
                "An ingress that has no core left is slow whatever the engines do.",
                (
                    Query("avg(ray_node_cpu_utilization) / 100", "processors in use"),
                    Query("sum(ray_node_mem_used) / sum(ray_node_mem_total)", "memory in use"),
                ),
                "percentunit",
            ),
        ),
    ),
)
