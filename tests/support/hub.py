"""A hub cache on disk, as if models had been downloaded."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OFFLINE", "snapshot"]

OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""Environment in which only the cache is asked."""


def snapshot(root: Path, model: str) -> Path:
    """Make the folder of a model's files in the cache ``root``, which ``HF_HUB_CACHE`` has to name."""
    folder = root / f"models--{model.replace('/', '--')}"
    files = folder / "snapshots" / ("0" * 40)
    files.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    return files
