"""The subcommands of `reranker …`, one file each: `add_parser` declares its arguments, `run` carries it out."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# Generic for type checkers only: at run time argparse's class takes no parameters.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
