"""TokenRing inside xDiT (xfuser 0.7): everything that touches xfuser is in this folder."""

from tokenring_xdit.integrations.xfuser.backends import AttentionBackend
from tokenring_xdit.integrations.xfuser.choice import current_choice
from tokenring_xdit.integrations.xfuser.install import register
from tokenring_xdit.integrations.xfuser.parallelize import Output, parallelize
from tokenring_xdit.integrations.xfuser.state import ShardedPipeline, XfuserState
from tokenring_xdit.integrations.xfuser.stopwatch import Stopwatch, time_flux_attention
from tokenring_xdit.integrations.xfuser.tracing import trace_upstream
from tokenring_xdit.integrations.xfuser.traffic import Traffic, count_traffic

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
