"""TokenRing inside xDiT (xfuser 0.7): everything that touches xfuser is in this folder."""

from tokenring_xdit.hosts.xfuser.backends import AttentionBackend
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.install import register
from tokenring_xdit.hosts.xfuser.parallelize import Output, parallelize
from tokenring_xdit.hosts.xfuser.state import ShardedPipeline, XfuserState
from tokenring_xdit.hosts.xfuser.stopwatch import Stopwatch, time_flux_attention
from tokenring_xdit.hosts.xfuser.tracing import trace_upstream
from tokenring_xdit.hosts.xfuser.traffic import Traffic, count_traffic

__all__ = [
    "AttentionBackend",
    "Output",
    "ShardedPipeline",
    "Stopwatch",
    "Traffic",
    "XfuserState",
    "count_traffic",
    "current_choice",
    "parallelize",
    "register",
    "time_flux_attention",
    "trace_upstream",
]
