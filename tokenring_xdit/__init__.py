"""TokenRing sequence-parallel attention for diffusion transformers, as a plugin for xDiT (xfuser).

Importing this package imports neither torch nor xfuser; :mod:`tokenring_xdit.attention` needs torch,
:mod:`tokenring_xdit.hosts.xfuser` needs xfuser, and so does ``tokenring_xdit.Engine``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenring_xdit.hosts.calls import Output
    from tokenring_xdit.hosts.diffusers.host import ContextParallelConfig
    from tokenring_xdit.hosts.parallelize import parallelize
    from tokenring_xdit.hosts.xfuser.host import graph_reports
    from tokenring_xdit.pipelines.engine import Engine, Step
    from tokenring_xdit.pipelines.pending import PendingPictures, PendingReply, Reply
    from tokenring_xdit.pipelines.text_engine import Chat

__all__ = [
    "Chat",
    "ContextParallelConfig",
    "Engine",
    "Output",
    "PendingPictures",
    "PendingReply",
    "Reply",
    "Step",
    "__version__",
    "graph_reports",
    "parallelize",
]

__version__ = "0.2.0"

_HOMES = {
    "Chat": "tokenring_xdit.pipelines.text_engine",
    "ContextParallelConfig": "tokenring_xdit.hosts.diffusers.host",
    "Engine": "tokenring_xdit.pipelines.engine",
    "Output": "tokenring_xdit.hosts.calls",
    "PendingPictures": "tokenring_xdit.pipelines.pending",
    "PendingReply": "tokenring_xdit.pipelines.pending",
    "Reply": "tokenring_xdit.pipelines.pending",
    "Step": "tokenring_xdit.pipelines.engine",
    "graph_reports": "tokenring_xdit.hosts.xfuser.host",
    "parallelize": "tokenring_xdit.hosts.parallelize",
}
"""Where the names are that are imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
