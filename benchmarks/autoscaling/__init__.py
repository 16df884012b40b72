"""A live service under a load that rises, bursts and falls: replicas that follow it, by our policy and by Ray's."""
