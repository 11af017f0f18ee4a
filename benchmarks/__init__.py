"""Ratios against the bare drivers, measured in one run: ``python -m benchmarks [NAME…]``."""
