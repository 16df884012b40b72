#!/usr/bin/env bash
# Every dialect with curl. RERANKER_URL and RERANKER_API_KEY as in examples/README.md.
set -euo pipefail
url=${RERANKER_URL:-http://127.0.0.1:8000}
ask() { # path, body
  echo "POST $1"
  curl --silent --show-error --fail-with-body "$url$1" \
    -H "authorization: Bearer ${RERANKER_API_KEY:-none}" -H 'content-type: application/json' -d "$2"
  echo
}
documents='["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]'

# Cohere, Jina, vLLM
ask /v1/rerank "{\"query\": \"capital of China\", \"documents\": $documents, \"top_n\": 2, \"return_documents\": true}"
# Hugging Face's TEI
ask /rerank "{\"query\": \"capital of China\", \"texts\": $documents}"
# Voyage
ask /v1/rerank "{\"query\": \"capital of China\", \"documents\": $documents, \"top_k\": 1}"
# vLLM's pairs
ask /score "{\"text_1\": \"capital of China\", \"text_2\": $documents}"
# structured documents
ask /v1/rerank '{"query": "a novel about a whale", "rank_fields": ["title", "about"], "documents": [
  {"title": "Emma", "about": "A young woman makes matches."},
  {"title": "Moby-Dick", "about": "A captain hunts a whale."}]}'
# an error names the field
ask /v1/rerank '{"query": "capital of China", "documents": ["a", 5]}' || echo "(as it should)"
