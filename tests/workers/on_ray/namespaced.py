"""Draws on the ranks of a Ray cluster, from inside one of its nodes: ``python -m ... ADDRESS FILE``."""

from __future__ import annotations

import sys

import numpy as np

from tests.workers.on_ray.test_engine import ENGINE, drawn
from tokenring_xdit import Engine

if __name__ == "__main__":
    address, file = sys.argv[1:]
    with Engine("embedded", ray=address, **ENGINE) as engine:
        np.save(file, np.asarray(drawn(engine)))
        print(*(worker.node for worker in engine.workers))
