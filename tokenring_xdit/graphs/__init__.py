"""Calls of a model that are replayed as CUDA graphs: what has to be alike, who decides, how they are recorded."""

from tokenring_xdit.graphs.ledger import GraphReport
from tokenring_xdit.graphs.recorder import CudaRecorder, Recorder, Recording, refuse_without_cuda
from tokenring_xdit.graphs.runner import GraphedCalls

__all__ = ["CudaRecorder", "GraphReport", "GraphedCalls", "Recorder", "Recording", "refuse_without_cuda"]
