"""TokenRing sequence-parallel attention for diffusion transformers, as a plugin for xDiT (xfuser).

Importing this package imports neither torch nor xfuser; :mod:`tokenring_xdit.attention` needs torch,
:mod:`tokenring_xdit.integrations.xfuser` needs xfuser, and so do ``tokenring_xdit.parallelize`` and
``tokenring_xdit.Engine``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenring_xdit.integrations.xfuser.parallelize import Output, parallelize
    from tokenring_xdit.pipelines.engine import Engine, Step

__all__ = ["Engine", "Output", "Step", "__version__", "parallelize"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in {"Output", "parallelize"}:
        from tokenring_xdit.integrations import xfuser

        return getattr(xfuser, name)
    if name in {"Engine", "Step"}:
        from tokenring_xdit.pipelines import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
