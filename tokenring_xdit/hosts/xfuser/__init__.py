"""TokenRing inside xDiT (xfuser 0.7): everything that touches xfuser is in this folder.

Names are imported when they are asked for, as the records of model families are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenring_xdit.hosts.xfuser.backends import AttentionBackend
    from tokenring_xdit.hosts.xfuser.choice import current_choice
    from tokenring_xdit.hosts.xfuser.host import graph_reports, parallelize
    from tokenring_xdit.hosts.xfuser.install import register
    from tokenring_xdit.hosts.xfuser.meters import count_traffic, time_attention
    from tokenring_xdit.hosts.xfuser.state import ShardedPipeline, XfuserState
    from tokenring_xdit.hosts.xfuser.tracing import trace_upstream

_HOMES = {
    "AttentionBackend": "backends",
    "ShardedPipeline": "state",
    "XfuserState": "state",
    "count_traffic": "meters",
    "current_choice": "choice",
    "graph_reports": "host",
    "parallelize": "host",
    "register": "install",
    "time_attention": "meters",
    "trace_upstream": "tracing",
}
"""The modules that they are in. None has the name of a module: that would be the module once it is imported."""

__all__ = [
    "AttentionBackend",
    "ShardedPipeline",
    "XfuserState",
    "count_traffic",
    "current_choice",
    "graph_reports",
    "parallelize",
    "register",
    "time_attention",
    "trace_upstream",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
