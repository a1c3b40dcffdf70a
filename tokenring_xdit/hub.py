"""The hub of models, and what is said where it cannot be asked."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from huggingface_hub import errors, hf_hub_download

from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError

__all__ = ["download", "problem_in"]

_SECONDS_UNTIL_ASKED_AGAIN = 60.0
"""A hub out of reach takes half a minute to find out: once is enough for many configs."""

_asked_again_at = 0.0

_INSTEAD = "download it where that can be done, or set HF_HOME to the folder it was downloaded to"


def download(model: str, file: str, kind: str = "diffusers pipeline", revision: str | None = None) -> Path:
    """A file of a model, from the cache or the hub.

    Args:
        model: Hub name.
        file: Path inside it.
        kind: What is wanted, for messages.
        revision: Branch, tag or commit; by default the main branch.

    Raises:
        ConfigurationError: There is no such model, or no such file in it.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    global _asked_again_at
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the message below says it once
    try:
        return Path(
            hf_hub_download(model, file, revision=revision, local_files_only=time.monotonic() < _asked_again_at)
        )
    except errors.HFValidationError as error:
        raise ConfigurationError(
            f"there is no model folder '{model}', and no model of the hub can be called so"
        ) from error
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"the hub gives '{model}' only to those who have accepted its terms: accept them on its page and run "
            "'hf auth login'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigurationError(f"there is no model folder '{model}', and the hub has no such model") from error
    except errors.LocalEntryNotFoundError as error:
        _asked_again_at = time.monotonic() + _SECONDS_UNTIL_ASKED_AGAIN
        raise ModelUnreachableError(
            f"there is no model folder '{model}', it was not downloaded before, and the hub cannot be reached: "
            f"{_INSTEAD}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ConfigurationError(f"'{model}' on the hub is not a {kind}: it has no {file}") from error
    except OSError as error:  # among them all that HTTP has
        raise ModelUnreachableError(
            f"there is no model folder '{model}', and the hub cannot be reached ({type(error).__name__}): {_INSTEAD}"
        ) from error


def problem_in(error: BaseException | None) -> str | None:
    """What the hub had to do with an error of a library that loads models; ``None`` where it had nothing to do with it.

    Args:
        error: The error, whose causes are looked through.
    """
    while error is not None:
        if isinstance(error, errors.GatedRepoError):
            return "the hub gives the model only to those who have accepted its terms: run 'hf auth login'"
        if isinstance(error, errors.RepositoryNotFoundError):
            return "the hub has no such model, or only for others: run 'hf auth login'"
        if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            return f"a file of the model was not downloaded before, and the hub cannot be reached: {_INSTEAD}"
        error = error.__cause__ or error.__context__
    return None
