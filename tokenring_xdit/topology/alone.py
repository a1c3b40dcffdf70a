"""What messages reach, where others have measured it: less than makers say of their links."""

from __future__ import annotations

from tokenring_xdit.topology.links import Rate

__all__ = ["NVLINK_4", "NVLINK_4_SOURCE", "PCIE_4", "PCIE_4_SOURCE"]

NVLINK_4 = tuple(
    (megabytes << 20, Rate(rate * 8 * 10**9)) for megabytes, rate in ((8, 210), (32, 256), (128, 289), (1024, 360))
)
"""Of NCCL between two GPUs with 18 NVLinks of the fourth generation (H100, H200) at NVSwitches, both ways at once,
beside the 10 us that are taken for the latency."""

NVLINK_4_SOURCE = (
    "a message alone does not reach that: NCCL's send and receive between two H100, both ways, captured, took 15.0 us "
    "for 1 MiB, 50 for 8, 141 for 32, 475 for 128, 2988 for 1 GiB (github.com/meta-pytorch/torchcomms issue 2159)"
)

PCIE_4 = Rate(25 * 8 * 10**9)
"""Of 16 lanes of PCIe 4.0 in each direction, both at once: what arrives of the maker's 32 GB/s. Unlike NVLink, one
message fills it, and several together get no more."""

PCIE_4_SOURCE = (
    "32 GB/s in each direction with PCIe's protocol, of which 25 arrive: p2pBandwidthLatencyTest between A40 at one "
    "socket, both ways, 50 GB/s (github.com/NVIDIA/nccl-tests issue 74), and between RTX 4090 with P2P 52 "
    "(github.com/NVIDIA/nccl issue 1614)"
)
