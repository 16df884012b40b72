"""Tests of the bundled demo model; those of the layers explain its construction."""
