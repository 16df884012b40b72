"""What the dashboard shows: rows of panels, each of which answers one question."""

from __future__ import annotations

from tools.dashboard.rows_of_lists import ROWS_OF_LISTS
from tools.dashboard.rows_of_operation import ROWS_OF_OPERATION

ROWS = (*ROWS_OF_LISTS, *ROWS_OF_OPERATION)
