"""Wires the library into Ray Serve. Thin: every decision is made in `reranker`."""
