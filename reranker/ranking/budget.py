"""A budget for work done twice: a little for each piece done once, saved up to a limit. Pure."""

from __future__ import annotations


class Budget:
    """Earned by `earn`, spent by `spend`; starts full."""

    def __init__(self, ratio: float, burst: int) -> None:
        """Start full.

        Args:
            ratio: What one piece of work earns.
            burst: How much can be saved.
        """
        self._ratio, self._burst = ratio, burst
        self._saved = float(burst)

    def earn(self) -> None:
        """Note a piece of work done once."""
        self._saved = min(self._burst, self._saved + self._ratio)

    def spend(self) -> bool:
        """Take one; False: there is none left."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
