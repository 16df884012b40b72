"""Engines turn a shard into logits. Only `vllm` and `vllm_cpu` import vllm or torch."""
