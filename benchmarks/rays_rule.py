"""Ray Serve's own autoscaling rule, counting shards: what our policy is compared with in benchmarks/autoscaling.

Our shards pass Serve by (docs/decisions/0007-socket.md), so that it has nothing to count; here it is given what it
would have counted: the shards that each replica has in hand, averaged by Serve as it does its own number.
"""

from typing import Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext


def ongoing_shards(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:  # Any: as Serve has it
    """Ask Ray's rule. Serve applies delays, factors and bounds to what it says."""
    context.total_num_requests = sum((context.aggregated_metrics or {}).get("shards", {}).values())
    wanted, state = replica_queue_length_autoscaling_policy(context)
    return float(wanted), state
