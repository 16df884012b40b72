"""These tests hold vLLM in the test process, which must be a fresh one: `make test` runs this folder by itself."""

from __future__ import annotations

import sys

import pytest

if "llvmlite" in sys.modules:
    # Starting, vLLM looks into every loaded module, and trips over llvmlite's (which the BM25 baseline brings).
    raise pytest.UsageError("run tests/engine in a process of its own: pytest tests/engine")
