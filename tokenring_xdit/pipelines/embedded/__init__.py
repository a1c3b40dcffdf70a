"""The small Flux that ships with the package, and the little world it was trained on.

``model/README.md`` is its model card; ``scripts/train_embedded_model.py`` makes it.
"""

from pathlib import Path

__all__ = ["MODEL_PATH"]

MODEL_PATH = Path(__file__).parent / "model"
"""A diffusers ``FluxPipeline`` folder."""
