"""``tokenring-xdit bench run``: what torch reads when it is imported is set first."""

from __future__ import annotations

import argparse
import os

from tokenring_xdit.workers.environment import rank_environment

__all__ = ["run_command"]


def run_command(args: argparse.Namespace) -> None:
    """Measure what a sweep says; under torchrun this is one of the ranks."""
    if "RANK" in os.environ:
        for name, value in rank_environment(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))).items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, has much to say
    from tokenring_xdit.cli import bench  # noqa: PLC0415  imports torch

    bench.run_command(args)
