"""Engines: what turns a shard into logits. `base` is the seam; `vllm` is the only file that imports vllm or torch."""
