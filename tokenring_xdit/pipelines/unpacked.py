"""A language model kept as GGUF, unpacked once into this user's cache, from where transformers loads it at once.

Reading the file takes most of what a rank needs to start: 147,000 fields, in Python, once each for the configuration,
the tokenizer and the weights.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError

from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.outputs import cache_folder

__all__ = ["unpack", "unpacked_folder"]

log = logging.getLogger(__name__)

_DRAFT = ".unpacking-"


def unpacked_folder(file: Path) -> Path:
    """Where a file is unpacked to; the folder is there only once it is complete.

    Args:
        file: The file; other contents, or other versions of the libraries that read it, have another folder.
    """
    found = file.stat()
    read = [_digest(file, found.st_size, found.st_mtime_ns), *map(version, ("transformers", "gguf"))]
    return cache_folder() / "models" / f"{file.stem}-{sha256(repr(read).encode()).hexdigest()[:12]}"


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """Of the contents; the same for a file of the same size that was not changed since."""
    digest = sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def unpack(file: Path) -> None:
    """Unpack a file, in float32, if that is to be done; not where another process is at it, or it cannot be written."""
    folder = unpacked_folder(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent) as alone:
            if alone and not folder.is_dir():
                _write(file, folder)
    except (OSError, SafetensorError) as error:  # a full disk, a home that is read only
        log.info("%s is read anew each time, as it could not be unpacked into %s: %s", file.name, folder.parent, error)


def _write(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for left in folder.parent.glob(f"{_DRAFT}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder.parent))
    try:
        source, options, plain = str(file.parent), {"gguf_file": file.name}, torch_dtype("float32")
        AutoTokenizer.from_pretrained(source, **options).save_pretrained(draft)
        packed = AutoModelForCausalLM.from_pretrained(source, dtype=plain, **options)
        del packed.config.quantization_config  # with it transformers saves nothing
        model = AutoModelForCausalLM.from_config(packed.config, dtype=plain)
        model.load_state_dict(packed.state_dict())
        model.generation_config = packed.generation_config
        model.save_pretrained(draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process holds the lock of a folder, which this one holds until the end of the block."""
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
