"""The reranking library: from a query and its documents to scores. No Ray, no HTTP framework."""
