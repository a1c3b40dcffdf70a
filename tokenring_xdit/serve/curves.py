"""What is nearest to measurements: a sum of terms, none of which is taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

__all__ = ["Term", "nearest_sum"]

Term = Callable[[float], float]
"""How a part of what is measured grows with its size; only its form counts, as its factor is fitted."""


def nearest_sum(sizes: Sequence[float], known: Sequence[float], terms: Sequence[Term]) -> Term:
    """The sum of non-negative multiples of terms that is nearest to all measurements, by shares of each.

    Args:
        sizes: Where it was measured.
        known: What, all of it positive.
        terms: Of one of which, at least, all values are positive.
    """
    shares = np.asarray(known, dtype=float)
    columns = np.asarray([[term(size) for term in terms] for size in sizes], dtype=float)
    scales = np.maximum(columns.max(axis=0), np.finfo(float).tiny)
    columns = columns / scales / shares[:, None]
    best: tuple[float, dict[int, float]] | None = None
    for count in range(1, len(terms) + 1):
        for chosen in combinations(range(len(terms)), count):
            factors = np.linalg.lstsq(columns[:, chosen], np.ones(len(shares)), rcond=None)[0]
            off = float(np.square(columns[:, chosen] @ factors - 1).sum())
            if (factors >= 0).all() and (best is None or off < best[0]):
                best = off, dict(zip(chosen, factors.tolist(), strict=True))
    assert best is not None  # one term alone is never negative
    found = best[1]
    return lambda size: sum(factor * terms[term](size) / float(scales[term]) for term, factor in found.items())
