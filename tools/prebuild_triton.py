"""Compile, while the image is built, what Triton would compile when it first sees a GPU.

python -m tools.prebuild_triton FOLDER

Writes the compiled library, and `cc`: what Triton calls as its C compiler ($CC) in the image. It knows this one source
and hands out its library; anything else it refuses. No GPU and no driver is needed: the driver's library is named in
the result, and found when it is loaded.
"""

import hashlib
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_CC = """\
#!/bin/bash
# In place of a C compiler: SOURCE … -o LIBRARY. Made by tools/prebuild_triton.py.
library=
for ((i = 1; i < $#; i++)); do
    [ "${!i}" = -o ] && { next=$((i + 1)); library=${!next}; }
done
known=FOLDER/$(sha256sum "$1" | cut -d ' ' -f 1).so
if [ ! -f "$known" ]; then
    echo "there is no C compiler in this image, and $1 was not compiled while it was built" >&2
    exit 1
fi
cp "$known" "$library"
"""


def build(folder: Path, compiler: str = "gcc") -> Path:
    """Compile Triton's driver module into the folder it has in the image; its name is its source's digest."""
    import triton.backends.nvidia

    nvidia = Path(triton.backends.nvidia.__file__).parent
    source = nvidia / "driver.c"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{hashlib.sha256(source.read_bytes()).hexdigest()}.so"
    includes = [f"-I{nvidia / 'include'}", f"-I{sysconfig.get_paths()['include']}"]
    with tempfile.TemporaryDirectory() as stubs:
        # Only its name is needed to link.
        stub = Path(stubs) / "libcuda.so.1"
        empty = ["-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", str(stub)]
        subprocess.run([compiler, *empty], check=True)
        options = ["-O3", "-shared", "-fPIC", "-Wno-psabi", "-Wl,--no-as-needed", f"-L{stubs}", "-l:libcuda.so.1"]
        subprocess.run([compiler, str(source), *options, *includes, "-o", str(library)], check=True)
    script = folder / "cc"
    script.write_text(_CC.replace("FOLDER", str(folder)))
    script.chmod(0o755)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
