"""What carries messages between ranks: a protocol, and what fulfils it."""

from tokenring_xdit.attention.transport.base import Parcel, Transport
from tokenring_xdit.attention.transport.memory import MemoryNetwork, MemoryTransport

__all__ = ["MemoryNetwork", "MemoryTransport", "Parcel", "Transport"]
