"""Emulated networks, what was fitted to them, and how the embedded model is judged: for benchmarks and the commands."""
