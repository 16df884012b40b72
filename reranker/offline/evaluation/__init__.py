"""Measuring a reranker on judged data: `formats` reads files, `experiment` reranks, `metrics` compares."""
