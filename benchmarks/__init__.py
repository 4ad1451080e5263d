"""Benchmarks: each measures the product as a user runs it, and its limit or peer beside it in the same run.

`python -m benchmarks.NAME [--small]` runs one; `python -m benchmarks` runs all and rewrites RESULTS.md.
"""
