"""The playground: a page to see what a reranker does. It calls the public API like anyone."""
