"""The fitted numbers of the model: where they are kept, and the neutral ones that the fit starts from (fitting.py)."""

from __future__ import annotations

import json
from dataclasses import asdict

from tools.demo_model import checkpoint
from tools.demo_model.layers import Calibration

CALIBRATION = checkpoint.INPUTS / "calibration.json"

# With it the answer dimension of the last token is the mean match, and the weight dimension the query's mean weight.
NEUTRAL = Calibration(gain=1.0, threshold=0.0, bias=0.0, query_weight=1.0)


def read_calibration() -> Calibration:
    """Read the committed numbers."""
    return Calibration(**json.loads(CALIBRATION.read_text(encoding="utf-8")))


def write_calibration(calibration: Calibration) -> None:
    """Commit fitted numbers, rounded to three digits: they decide the bytes of the weights."""
    rounded = {name: float(f"{value:.3g}") for name, value in asdict(calibration).items()}
    CALIBRATION.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
