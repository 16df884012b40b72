#!/usr/bin/env bash
# Index the documents of an example, and serve them: examples/search/run.sh patents|medical|docs|all [options of
# `reranker serve`, such as --model Qwen/Qwen3-Reranker-0.6B or --port 8080]
set -euo pipefail
cd "$(dirname "$0")/../.."
reranker=.venv/bin/reranker
out=build/examples
example=${1:?patents, medical, docs or all}
shift

build() {
    case $1 in
        patents) "$reranker" index build examples/search/patents/corpus.jsonl --out "$out/patents" \
            --text-field abstract --text-field claims ;;
        medical) "$reranker" index build benchmarks/judged/medquad-en/corpus.jsonl \
            examples/search/medical/withdrawn.jsonl --out "$out/medical" ;;
        docs) "$reranker" index build docs --out "$out/docs" --chunk-tokens 256 --overlap-tokens 32 ;;
        *) echo "no example $1; there are patents, medical, docs and all" >&2; exit 2 ;;
    esac
}

names=("$example")
[ "$example" != all ] || names=(patents medical docs)
indexes=()
for name in "${names[@]}"; do
    build "$name"
    indexes+=(--index "$name=$out/$name")
done
exec "$reranker" serve --config examples/search/serve.yaml "${indexes[@]}" "$@"
