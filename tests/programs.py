"""Programs that tests start and that no Python package has: a Redis, a Prometheus, a browser, OpenSSL, networks.

python -m tests.programs     installs from Debian those that are not here; where it may not, it says how
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    "redis-server": "redis-server",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "chromium": "chromium fonts-noto-cjk",
    "ip": "iproute2",
}
"""Debian's packages, by the program."""
_POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it whether a service that was installed is started."""


def program(name: str) -> str:
    """The path of a program; where it is not here, the test that asks is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here; to bring it: {_command([name])}")
    return path


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by itself; gives its file and that of its key."""
    signed, key = folder / "cert.pem", folder / "key.pem"
    make = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-days", "1", "-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, "-out", signed, "-keyout", key], check=True, capture_output=True)
    return signed, key


def _command(names: list[str]) -> str:
    packages = dict.fromkeys(package for name in names for package in PACKAGES[name].split())
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def _install(command: str) -> None:
    """Run it, with no service started: a Redis and a Prometheus that nobody asked for."""
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=quiet, check=False)
        subprocess.run([*command.split(), "-y", "-q"], env=quiet, check=False)
    finally:
        if ours:
            _POLICY.unlink()


def main() -> int:
    """Bring what is not here.

    Returns:
        Exit status: 1 where something is still missing and this is a run of CI's, which is to skip nothing.
    """
    if (missing := _missing()) and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(_command(missing))
        missing = _missing()
    if missing:
        print(f"Not here: {', '.join(missing)}. Their tests are skipped. To bring them: sudo {_command(missing)}")
    return int(bool(missing) and "CI" in os.environ)


def _missing() -> list[str]:
    return [name for name in PACKAGES if shutil.which(name) is None]


if __name__ == "__main__":
    sys.exit(main())
