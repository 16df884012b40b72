"""The score cache: what makes two documents' scores the same, where they are kept, who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Statistics: TypeAlias = Mapping[str, "int | bool | Statistics"]  # what a cache holds and has done, in groups
