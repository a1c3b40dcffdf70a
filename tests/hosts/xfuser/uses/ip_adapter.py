"""IP-Adapters, which bring attention processors of their own, before and after ``parallelize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.hosts.xfuser.uses.harness import Expected, Scene, Use, called, tensors_of

PICTURE_DIM = 20


def load(pipe: Any, scene: Scene) -> None:
    """An adapter of random weights for FLUX.1, whose layers of two streams attend a picture's tokens besides."""
    model, draw = pipe.transformer, torch.Generator().manual_seed(4)
    text, inner = model.config.joint_attention_dim, model.inner_dim

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    picture = {"proj.weight": random(4 * text, PICTURE_DIM), "proj.bias": random(4 * text)}
    picture |= {"norm.weight": torch.ones(text), "norm.bias": torch.zeros(text)}
    layers = {}
    for index in range(len(model.transformer_blocks)):
        for name in ("to_k_ip", "to_v_ip"):
            layers[f"{index}.{name}.weight"], layers[f"{index}.{name}.bias"] = random(inner, text), random(inner)
    model._load_ip_adapter_weights({"image_proj": picture, "ip_adapter": layers})


def _embeddings(seed: int) -> Mapping[str, Any]:
    picture = torch.randn(1, 1, PICTURE_DIM, generator=torch.Generator().manual_seed(seed))
    return {"ip_adapter_image_embeds": [picture], "negative_ip_adapter_image_embeds": [torch.zeros_like(picture)]}


def shown(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The picture, encoded."""
    return _embeddings(8)


def shown_of_each_rank(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Another picture on each rank."""
    return _embeddings(8 + scene.rank)


def unloaded(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A call with the adapter and one without."""
    found = {**tensors_of(pipe(**scene.inputs(), **shown(pipe, scene)))}
    pipe.unload_ip_adapter()
    return {**found, "without": tensors_of(pipe(**scene.inputs()))["latents"]}


_FLUX = frozenset({"flux"})
USES = {
    "before": Use("IP-Adapter, before", before=load, call=called(shown), families=_FLUX),
    "after": Use("IP-Adapter, after", after=load, call=called(shown), families=_FLUX),
    "unloaded": Use("IP-Adapter, unloaded after a call", after=load, call=unloaded, families=_FLUX),
    "each-rank": Use(
        "IP-Adapter, pictures of each rank's own",
        after=load,
        call=called(shown_of_each_rank),
        families=_FLUX,
        expected=Expected.REFUSED,
    ),
}
