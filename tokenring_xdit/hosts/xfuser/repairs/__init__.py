"""Faults of xfuser that are repaired, most of them only where TokenRing is chosen.

Here is what several families share; what one family alone needs stands beside its record.
"""
