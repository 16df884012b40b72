"""Rows about lists: answered or not, how long it takes, what limits it, how they are spread."""

from __future__ import annotations

from tools.dashboard.queries import WINDOW, Panel, Query, Row, mean, quantile, rate

_ANSWERED = '{result="answered"}'
_5XX = f'sum(rate(ray_reranker_request_duration_seconds_count_total{{result="failed"}}[{WINDOW}]))'
_ALL = f"sum(rate(ray_reranker_request_duration_seconds_count_total[{WINDOW}]))"

ROWS_OF_LISTS = (
    Row(
        "Are lists answered, and in time?",
        (
            Panel(
                "Requests per second, by outcome",
                "How requests for a ranking ended: answered, partial, client_gone, or the error's code.",
                (Query(rate("requests_total", "outcome"), "{{outcome}}"),),
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
                    Query(quantile(q, "request_duration_seconds", selector=_ANSWERED), f"p{q * 100:g}")
                    for q in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "Documents and pairs per second",
                "Documents of answered requests; pairs that engines scored for them. Cache and repeats are between.",
                (
                    Query(rate("documents_total"), "documents"),
                    Query(rate("scored_pairs_total"), "pairs scored"),
                ),
            ),
            Panel(
                "Tokens per second",
                "Prompt tokens as `usage` counts them, and what engines had to compute for them.",
                (
                    Query(rate("prompt_tokens_total"), "in answers"),
                    Query(rate("scored_tokens_total"), "scored for answers"),
                    Query(rate("engine_tokens_total"), "computed in engines"),
                ),
            ),
            Panel(
                "Requests per second, by dialect",
                "Which clients there are.",
                (Query(rate("requests_total", "dialect"), "{{dialect}}"),),
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
                        f"{rate('stage_duration_seconds_sum_total', 'stage')} / ignoring (stage) group_left "
                        + rate("request_documents_count_total"),
                        "{{stage}}",
                    ),
                ),
                "s",
            ),
            Panel(
                "Seconds of a request, by stage (p95)",
                "Of the requests that had the stage.",
                (Query(quantile(0.95, "stage_duration_seconds", "stage"), "{{stage}}"),),
                "s",
            ),
            Panel(
                "Documents of a request",
                "How long the lists are.",
                (
                    Query(quantile(0.5, "request_documents"), "p50"),
                    Query(quantile(0.95, "request_documents"), "p95"),
                    Query(mean("request_documents"), "mean"),
                ),
            ),
            Panel(
                "Tokens of a request",
                "How much work the lists are.",
                (
                    Query(quantile(0.5, "request_tokens"), "p50"),
                    Query(quantile(0.95, "request_tokens"), "p95"),
                    Query(mean("request_tokens"), "mean"),
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
                        f"{rate('engine_busy_seconds_total')} / sum(ray_reranker_engines)",
                        "busy",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Pairs per batch",
                "How full the batches are that engines compute.",
                (Query(f"{rate('engine_pairs_total')} / {rate('engine_steps_total')}", "pairs per step"),),
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
                        f"{rate('vllm_prefix_cache_hit_tokens_total')} / "
                        + rate("vllm_prefix_cache_queried_tokens_total"),
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
                    Query(mean("request_shards"), "shards"),
                    Query(mean("request_replicas"), "distinct replicas"),
                ),
            ),
            Panel(
                "Slowest shard over the median",
                "Of requests with two shards or more. 1: all replicas end together.",
                (
                    Query(quantile(0.5, "slowest_shard_ratio"), "p50"),
                    Query(quantile(0.95, "slowest_shard_ratio"), "p95"),
                ),
            ),
            Panel(
                "Shards sent again",
                "Retried: their replica was lost. Hedged: it lagged. Dropped: nobody waited any more.",
                (
                    Query(rate("retried_shards_total"), "retried"),
                    Query(rate("hedged_shards_total"), "hedged"),
                    Query(rate("dropped_shards_total"), "dropped"),
                ),
            ),
        ),
    ),
)
