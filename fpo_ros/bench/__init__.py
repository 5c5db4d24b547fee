"""Benchmarks: each figure beside that of a named baseline, measured in the same run."""
