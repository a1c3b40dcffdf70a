"""Language models of transformers 5 over several ranks: sharded prompts, keys that stay where they were computed."""

from tokenring_xdit.hosts.transformers.cache import ShardedCache
from tokenring_xdit.hosts.transformers.context import ContextParallel
from tokenring_xdit.hosts.transformers.host import parallelize
from tokenring_xdit.hosts.transformers.supported import FAMILIES, Family

__all__ = ["FAMILIES", "ContextParallel", "Family", "ShardedCache", "parallelize"]
