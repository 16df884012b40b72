"""Speed, measured: ratios in alternating rounds on one machine. Never asserted in a test."""
