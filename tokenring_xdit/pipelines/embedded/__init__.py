"""The small Flux that ships with the package.

``model/README.md`` is its model card; ``scripts/train_embedded_model.py`` makes it, of drawings of a little world.
"""

import json
from pathlib import Path

__all__ = ["IMAGE_SIZE", "MODEL_PATH", "words"]

MODEL_PATH = Path(__file__).parent / "model"
"""A diffusers ``FluxPipeline`` folder."""

IMAGE_SIZE = 64
"""Side of the pictures that it was trained on, in pixels."""


def words() -> list[str]:
    """Every word of the captions that it was trained on, sorted: its second tokenizer has whole ones."""
    tokenizer = json.loads((MODEL_PATH / "tokenizer_2" / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = [piece for piece, _ in tokenizer["model"]["vocab"]]
    return sorted(piece[1:] for piece in pieces if piece.startswith("\u2581") and piece[1:].islower())
