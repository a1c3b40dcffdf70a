"""Values of a run's config that are said in more than one way."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from tokenring_xdit.config import parsed_by
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.pipelines.choice import Lora
from tokenring_xdit.sizes import PictureSize

__all__ = ["Backend", "Files", "Loras", "Size", "files_of", "is_url"]


def files_of(value: Any) -> Any:
    """Names of files as a list, also where it is one."""
    return [value] if isinstance(value, str) else value


def is_url(name: str) -> bool:
    """Whether a picture is fetched, instead of being a file."""
    return name.startswith(("http://", "https://"))


def _files(value: Any) -> Any:
    files = files_of(value)
    if not isinstance(files, (list, tuple)) or not files or not all(isinstance(file, str) and file for file in files):
        raise ValueError(f"{value!r} is neither the name of a file nor a list of them; put in quotes what YAML reads")
    return tuple(files)


# The JSON schemas take what the validators take, in the other spellings too.
Size = Annotated[
    PictureSize,
    parsed_by(PictureSize.parse),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^ *0*[1-9][0-9]{0,8}([xX]0*[1-9][0-9]{0,8})? *$"},
                {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            ]
        }
    ),
]
_FILE = {"type": "string", "minLength": 1}
Files = Annotated[
    tuple[str, ...],
    BeforeValidator(_files),
    WithJsonSchema({"anyOf": [_FILE, {"type": "array", "items": _FILE, "minItems": 1}]}),
]
_LORA = {
    "anyOf": [
        _FILE,
        {
            "type": "object",
            "properties": {"path": _FILE, "scale": {"type": "number"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ]
}
Loras = Annotated[
    tuple[Lora, ...],
    parsed_by(Lora.parse_all),
    PlainSerializer(lambda loras: [{"path": lora.path, "scale": lora.scale} for lora in loras]),
    WithJsonSchema({"anyOf": [*_LORA["anyOf"], {"type": "array", "items": _LORA}]}),
]
Backend = Annotated[
    AttentionBackend,
    parsed_by(AttentionBackend.parse),
    WithJsonSchema({"enum": [name for backend in AttentionBackend for name in (backend.value, backend.name)]}),
]
