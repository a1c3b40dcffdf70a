"""Pictures as the bytes of a file."""

from __future__ import annotations

import base64
import io
from typing import Any

from tokenring_xdit.serve.schema import OutputFormat

__all__ = ["encoded"]


def encoded(picture: Any, form: OutputFormat, quality: int) -> str:
    """A PIL picture as a file, in base64.

    Args:
        picture: The picture.
        form: Form of the file.
        quality: Quality of JPEG and WebP, up to 100.
    """
    file = io.BytesIO()
    if form == "png":
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, form.upper(), quality=quality)
    return base64.b64encode(file.getvalue()).decode("ascii")
