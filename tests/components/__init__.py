"""Tests of the test bed: each part against the real thing, its faults, and that it leaves nothing behind."""
