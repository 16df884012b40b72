"""What every group of settings has in common: frozen, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """A group of settings, or one of its entries."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
