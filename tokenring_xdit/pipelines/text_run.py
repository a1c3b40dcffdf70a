"""What one run of a language model is: model, prompts, context, ranks and output, as YAML says; read without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.run_prompts import Count, PromptConfig, numbered
from tokenring_xdit.pipelines.text_options import TextOptions, option_mistakes

__all__ = ["TextRunConfig", "read_text"]

_SUFFIXES = (".txt", ".json")


class TextRunConfig(PromptConfig):
    """One run of a language model. Every key but ``task`` and ``model`` has a default."""

    other_names: ClassVar[Mapping[str, str]] = {"ranks": "tokenring_degree", "max_new_tokens": "options.max_new_tokens"}

    task: Literal["text"] = Field(description="'text', or 'picture', for videos as well")
    model: str = Field(
        min_length=1, description="folder or hub name of a causal language model of transformers, or 'smollm2'"
    )
    context: str | None = Field(None, description="file with a text that the prompts are about, in UTF-8")
    options: dict[str, Any] = Field({}, description="how answers are generated: max_new_tokens, temperature, top_p ...")
    tokens_per_rank: Count | None = Field(
        None, description="refuse what would put keys of more tokens on a rank; no limit by default"
    )
    output: str | None = Field(
        None,
        min_length=1,
        description="TXT, numbered where there are several prompts, or one JSON with tokens and figures; outputs/ and "
        "the model's name by default",
    )

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """As in the base class."""
        mistakes = super().mistakes_between(values)
        mistakes += [f"options: {mistake}" for mistake in option_mistakes(values.get("options", {}))]
        output = values.get("output")
        if output is not None and Path(output).suffix.lower() not in _SUFFIXES:
            mistakes.append(f"output: '{output}' does not end in {' or '.join(_SUFFIXES)}")
        if values.get("context") is not None:
            try:
                read_text("context:", values["context"])
            except ConfigurationError as error:
                mistakes.append(str(error))
        return mistakes

    @property
    def degrees(self) -> ParallelDims:
        """How the ranks share the work."""
        return ParallelDims(tokenring=self.tokenring_degree)

    @property
    def answer_options(self) -> TextOptions:
        """How answers are generated."""
        return TextOptions.of(self.options)

    def read_context(self) -> str:
        """The text that the prompts are about; empty where there is none.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        return "" if self.context is None else read_text("context:", self.context)

    def outputs(self) -> list[Path]:
        """Where the answers go: a file for each prompt, or one of JSON for all."""
        path = Path(self.output or f"outputs/{Path(self.model).name}{_SUFFIXES[0]}")
        return [path] if path.suffix.lower() == ".json" else numbered(path, len(self.prompts()))

    def agreed_on(self) -> dict[str, Any]:
        """What ranks have to be given alike: nodes read files of their own."""
        context = self.read_context().encode()
        read = f"{self.context} ({len(context)} bytes, {hashlib.sha256(context).hexdigest()[:8]})"
        return self.model_dump(mode="json") | {"prompts": self.prompts(), "context": read}


def read_text(what: str, path: str) -> str:
    """A file's text, without a mark of its encoding; ``what`` is how the user called the file.

    Raises:
        ConfigurationError: It cannot be read, or is empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error.reason})"
        raise ConfigurationError(f"{what} {path} cannot be read as a text: {reason}") from error
    if not text.strip():
        raise ConfigurationError(f"{what} {path} is empty, or has nothing but spaces and line breaks")
    return text
