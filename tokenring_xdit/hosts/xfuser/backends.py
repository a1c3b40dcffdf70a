"""xfuser's attention backends that TokenRing can use: those that return a log-sum-exp."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec

from tokenring_xdit.errors import ConfigurationError, UnsupportedError, nearest

__all__ = ["COUNTED", "AttentionBackend"]

COUNTED = {"SDPA_EFFICIENT": "efficient", "FLASH_4": "flash_4"}
"""xfuser's names of kernels, each with ours that computes the same and reads key counts on the device."""


class AttentionBackend(Enum):
    """A kernel for attention on one rank, by xfuser's name for it.

    ``SDPA_FLASH`` was run on a CPU and on a GPU, ``SDPA_EFFICIENT`` and ``CUDNN`` on a GPU; no other was.
    """

    AUTO = "auto"
    SDPA_FLASH = "sdpa_flash"
    SDPA_EFFICIENT = "sdpa_efficient"
    CUDNN = "cudnn"
    FLASH = "flash"
    FLASH_3 = "flash_3"
    AITER = "aiter"

    @classmethod
    def parse(cls, name: str | AttentionBackend) -> AttentionBackend:
        """Read a name, in lower or upper case.

        Raises:
            ConfigurationError: There is no such backend, or TokenRing cannot use it.
        """
        if isinstance(name, cls):
            return name
        try:
            return cls(str(name).lower())
        except ValueError:
            raise ConfigurationError(
                f"'{name}' is no attention backend that TokenRing can use: it needs one that returns the log-sum-exp. "
                f"{nearest(str(name).lower(), (backend.value for backend in cls))}"
            ) from None

    @property
    def upstream(self) -> str | None:
        """The name that xfuser takes; ``None`` leaves the choice to xfuser."""
        return None if self is AttentionBackend.AUTO else self.name

    def refuse_missing(self) -> None:
        """Refuse a backend that this machine cannot run.

        Raises:
            UnsupportedError: A GPU or a package is missing.
        """
        if self in {AttentionBackend.AUTO, AttentionBackend.SDPA_FLASH}:
            return
        import torch

        if not torch.cuda.is_available():
            raise UnsupportedError(f"attention_backend={self.value} needs a GPU: use auto or sdpa_flash without")
        package = _PACKAGES.get(self)
        if package is not None and find_spec(package) is None:  # not run on a GPU
            raise UnsupportedError(
                f"attention_backend={self.value} needs the package {package}: install it, or use auto"
            )


_PACKAGES = {
    AttentionBackend.FLASH: "flash_attn",
    AttentionBackend.FLASH_3: "flash_attn_interface",
    AttentionBackend.AITER: "aiter",
}
