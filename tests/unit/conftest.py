"""Property tests have no deadline: an example may take its time on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("reranker", deadline=None)
settings.load_profile("reranker")
