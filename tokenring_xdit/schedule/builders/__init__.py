"""One algorithm a module; :data:`BUILDERS` is the list of schedules that can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable

from tokenring_xdit.schedule.builders.bidirectional import bidirectional, bidirectional_q
from tokenring_xdit.schedule.builders.direct import direct, direct_kv
from tokenring_xdit.schedule.builders.heads import heads
from tokenring_xdit.schedule.builders.hierarchical import hierarchical
from tokenring_xdit.schedule.builders.mesh import mesh
from tokenring_xdit.schedule.builders.ring import ring
from tokenring_xdit.schedule.builders.token_ring import token_ring
from tokenring_xdit.schedule.plan import Schedule

__all__ = [
    "BUILDERS",
    "Builder",
    "bidirectional",
    "bidirectional_q",
    "direct",
    "direct_kv",
    "heads",
    "hierarchical",
    "mesh",
    "ring",
    "token_ring",
]

Builder = Callable[..., Schedule]
"""From the number of ranks to a plan with the full mask. Keyword-only parameters are options that a name can
carry, except ``heads``, which the attention call knows."""

BUILDERS: dict[str, Builder] = {
    "bidirectional": bidirectional,
    "bidirectional_q": bidirectional_q,
    "direct": direct,
    "direct_kv": direct_kv,
    "heads": heads,
    "hierarchical": hierarchical,
    "mesh": mesh,
    "ring": ring,
    "token_ring": token_ring,
}
