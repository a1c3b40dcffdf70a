"""What the machines of a checkup have, as ``doctor.json`` says it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Entry", "GpuFacts", "MachineFacts", "NodeFacts"]


class Entry(BaseModel):
    """A part of ``doctor.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuFacts(Entry):
    """A GPU.

    Attributes:
        name: As its maker calls it.
        memory_bytes: Bytes of memory.
        capability: Compute capability, major and minor.
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]


class MachineFacts(Entry):
    """What a machine has.

    Attributes:
        host: Its name.
        platform: Operating system.
        python: Version.
        cpu: Name of the processor.
        cores: How many.
        memory_bytes: Bytes of main memory; ``None`` where the system does not say.
        versions: Versions of packages; ``None`` where one is not installed.
        cuda: That torch was built for; ``None`` for a build without.
        cuda_said: Why such a torch sees no GPU, as it says.
        nccl: Version in torch; ``None`` where it has none.
        driver: Driver of the GPUs; ``None`` where there is none.
        gpus: The GPUs that torch sees.
        peers: Pairs of GPUs, by their indices, of which the first reaches the memory of the second.
        smi: What ``nvidia-smi topo -m`` says, as a topology file has it; ``None`` where it says nothing of use.
        smi_said: Why not.
    """

    host: str
    platform: str
    python: str
    cpu: str
    cores: int
    memory_bytes: int | None
    versions: dict[str, str | None]
    cuda: str | None = None
    cuda_said: str = ""
    nccl: str | None = None
    driver: str | None = None
    gpus: tuple[GpuFacts, ...] = ()
    peers: tuple[tuple[int, int], ...] = ()
    smi: dict[str, Any] | None = None
    smi_said: str = ""


class NodeFacts(Entry):
    """A node of several, and the ranks on it.

    Attributes:
        node: Its number, as torchrun counts.
        host: Name of its host.
        ranks: Those on it.
        device: What they compute on.
        torch: Version.
    """

    node: int
    host: str
    ranks: tuple[int, ...]
    device: str
    torch: str

    def __str__(self) -> str:
        ranks = f"rank {self.ranks[0]}" if len(self.ranks) == 1 else f"ranks {', '.join(map(str, self.ranks))}"
        return f"node {self.node} ({self.host}, {ranks}, {self.device})"
