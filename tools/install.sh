#!/usr/bin/env bash
# Make .venv and install a lock file into it: tools/install.sh cpu|gpu [dev|locked]. Doing it
# twice does no harm. `locked`: only what is locked, without this project.
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=$1
what=${2:-}

say() { printf '\033[1m%s\033[0m\n' "$*"; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || { echo "Python 3.11 or 3.12 is needed and not on the PATH (or: make … PYTHON=/path/to/python3.11)" >&2; exit 1; }

# Another vLLM build in the environment: start over, the two share too many files to be swapped in place.
if [ -f .venv/flavour ] && [ "$(cat .venv/flavour)" != "$flavour" ]; then
    say "Replacing the $(cat .venv/flavour) environment by a $flavour one"
    rm -rf .venv
fi
if [ ! -x .venv/bin/pip ]; then
    "$python" -m venv --clear .venv || { echo "could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
fi
echo "$flavour" > .venv/flavour

files=("requirements/$flavour.txt")
[ "$what" != dev ] || files+=(requirements/dev.txt)
locks=("${files[@]/#/--requirement=}")
say "Installing $(cat "${files[@]}" | grep -c '==') packages from ${files[*]} into .venv ($([ "$flavour" = gpu ] && echo 9 || echo 4) GB on disk; minutes the first time)"
# --no-deps: the lock files are complete, and leave out packages that would break torch on a CPU (tools/lock.sh).
install=(.venv/bin/pip install --disable-pip-version-check --no-deps --no-compile)
if ! "${install[@]}" "${locks[@]}"; then
    [ "$flavour" = cpu ] || exit 1
    say "Trying again with PyTorch's own index, for the CPU build of torch"
    "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "${locks[@]}"
fi
# A torch of another build may come from a folder or an index that pip is configured with.
if [ "$flavour" = gpu ] && ! grep -q "^cuda.*= '" .venv/lib/python3.*/site-packages/torch/version.py; then
    echo "pip installed a torch without CUDA; remove the indexes and folders from pip's configuration that have one" >&2
    exit 1
fi
# pip compiles with one core, and takes as long for that as for the rest; what does not compile is for another Python.
.venv/bin/python -m compileall -q -j 0 .venv/lib &> /dev/null || true
[ "$what" = locked ] || "${install[@]}" --no-build-isolation --quiet --editable .
say "Installed."
