"""What clients say and hear, as OpenAI's clients do; what they say is taken as it is, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenring_xdit.errors import nearest
from tokenring_xdit.messages import named, one_line, shown
from tokenring_xdit.pipelines.values import LARGEST_SEED
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["Body", "EditBody", "GenerationBody", "OutputFormat", "PromptBody", "Text", "VideoBody", "refused"]

OutputFormat = Literal["png", "jpeg", "webp"]

Text = Annotated[str, Field(max_length=32_000)]


class Body(BaseModel):
    """What a client says; ``null`` leaves a value to the server."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_one(cls, values: Any) -> Any:
        """Of fields that there are not keep the first, which is named: errors of all of very many take seconds."""
        if not isinstance(values, dict):
            return values
        unknown = next((key for key in values if key not in cls.model_fields), None)
        return {key: value for key, value in values.items() if key in cls.model_fields or key == unknown}


class PromptBody(Body):
    """What is said of pictures and videos alike."""

    prompt: Text = Field(min_length=1, description="what to draw")
    model: str | None = Field(None, description="name of the model, as /v1/models says it")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, or 'auto'", examples=["1024x1024"])
    user: str | None = Field(None, max_length=512, description="the user of the client; ignored")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="seed of the first one; a random one by default")
    steps: int | None = Field(None, ge=1, description="denoising steps")
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False, description="guidance scale")
    negative_prompt: Text | None = Field(None, description="what the picture must not show, for models that take it")


class GenerationBody(PromptBody):
    """Of ``/v1/images/generations``."""

    n: int | None = Field(None, ge=1, le=10, description="pictures; their seeds follow each other")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="only b64_json")
    output_format: OutputFormat | None = Field(None, description="png by default")
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of jpeg and webp, 100 by default")
    stream: bool | None = Field(None, description="server-sent events, as the picture is made")
    partial_images: int | None = Field(
        None, ge=0, le=500, description="pictures of what is being made, in a stream; at most one after each step"
    )


class EditBody(GenerationBody):
    """Of ``/v1/images/edits``, beside its files."""

    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="how far the picture is regenerated, for models that take it",
    )


class VideoBody(PromptBody):
    """Of ``/v1/videos``."""

    seconds: float | None = Field(None, gt=0, allow_inf_nan=False, description="of the video, instead of its frames")
    frames: int | None = Field(None, ge=1, description="number of frames, which the pipeline may round")
    fps: int | None = Field(None, ge=1, le=120, description="frames a second")
    input_reference: Any = Field(None, description="not taken: this model starts from no picture")

    @field_validator("seconds", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """OpenAI's clients write numbers as text here."""
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "model": "an object with fields",
    "dict": "an object with fields",
    "list": "a list",
    "literal": "",
}

_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
}


def refused(details: Sequence[Any], known: Sequence[str]) -> RefusedError:
    """What pydantic found wrong with a body, in a sentence about the first mistake.

    Args:
        details: What its errors say.
        known: The fields that there are.
    """
    detail = details[0]
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    place = [str(part) for part in detail["loc"][1:]]  # behind "body"
    if kind == "json_invalid" or not place:
        return RefusedError("the body has to be a JSON object, with 'Content-Type: application/json'")
    field = named(".".join(place))
    if kind == "extra_forbidden" and len(place) > 1:
        return RefusedError(f"there is no field '{field}'", field, code="unknown_field")
    if kind == "extra_forbidden":
        return RefusedError(f"there is no field '{field}'. {nearest(field, known)}", field, code="unknown_field")
    if kind == "missing":
        return RefusedError(f"{field}: is missing", field, code="missing_field")
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        text = f"{field}: {shown(value)} is not allowed; it has to be {words} {context[bound]}"
    elif kind == "string_too_short":
        text = f"{field}: is empty"
    elif kind == "string_too_long":
        text = f"{field}: has {len(value)} characters; {context['max_length']} are the most"
    elif kind == "string_unicode":
        text = f"{field}: has a character that Unicode does not have"
    elif kind == "literal_error":
        text = f"{field}: {shown(value)} is not allowed; it has to be {context['expected']}"
    elif kind == "finite_number":
        text = f"{field}: {shown(value)} is not a finite number"
    elif (expected := _KINDS.get(kind.partition("_")[0])) and kind.endswith(("_type", "_parsing", "_from_float")):
        text = f"{field}: {shown(value)} is not {expected}"
    else:
        text = f"{field}: {shown(value)}: {one_line(detail['msg'])}"
    return RefusedError(text, field, code="invalid_value")
