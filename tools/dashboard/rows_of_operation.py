"""Rows about what lists are served by: the cache, the replicas, failures, the control plane."""

from __future__ import annotations

from tools.dashboard.queries import ENGINE, WINDOW, Panel, Query, Row, mean, quantile, rate

_KNOWN = f"{rate('cache_hits_total')} + {rate('cache_coalesced_total')}"

ROWS_OF_OPERATION = (
    Row(
        "What does the cache save?",
        (
            Panel(
                "Documents per second",
                "Distinct documents: known; being scored for another list; scored. Repeated: within their list.",
                (
                    Query(rate("cache_hits_total"), "known"),
                    Query(rate("cache_coalesced_total"), "shared"),
                    Query(rate("cache_misses_total"), "scored"),
                    Query(rate("deduplicated_pairs_total"), "repeated"),
                ),
            ),
            Panel(
                "Share of documents that were known",
                "Or were being scored for another list.",
                (
                    Query(
                        f"({_KNOWN}) / ({_KNOWN} + {rate('cache_misses_total')})",
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
                    Query(quantile(0.95, "cache_redis_seconds"), "p95 of a look-up, seconds"),
                    Query(rate("cache_redis_errors_total"), "errors per second"),
                    Query(rate("cache_redis_skipped_total"), "skipped per second"),
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
                    Query(mean("engine_load_seconds"), "mean load, seconds"),
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
                (Query(rate("http_responses_total", "status"), "{{status}}"),),
                "reqps",
            ),
            Panel(
                "Refused before any work, by reason",
                "queue: those here already. key: the key's own limits. too_large: more than is ever let in.",
                (Query(rate("admission_refusals_total", "reason"), "{{reason}}"),),
                "reqps",
            ),
            Panel(
                "Documents not scored whole, per second",
                "Truncated, in several windows, left out by a rule, not scored in time.",
                (
                    Query(rate("truncated_documents_total"), "truncated"),
                    Query(rate("windowed_documents_total"), "in windows"),
                    Query(rate("excluded_documents_total"), "excluded"),
                    Query(rate("unscored_documents_total"), "unscored"),
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
