"""What people do with a parallel pipeline beside calling it: second pipelines, saving, copies, direct calls."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.hosts.xfuser.uses.arguments import embeddings
from tests.hosts.xfuser.uses.harness import Expected, Scene, Use, called, tensors_of
from tests.support.small import TASKS, small


def _fitting(pipe: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a pipeline takes."""
    names = inspect.signature(type(pipe).__call__).parameters
    return {name: value for name, value in inputs.items() if name in names}


def second(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Another pipeline of the same class around the same parts, called after the first."""
    first = tensors_of(pipe(**scene.inputs()))
    other = type(scene.plain())(**pipe.components)
    other.set_progress_bar_config(disable=True)
    return {"first": first["latents"], **tensors_of(other(**scene.inputs()))}


def second_of_type(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The same, of ``type(pipe)``."""
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    found = tensors_of(other(**scene.inputs()))
    return {**found, "first": tensors_of(pipe(**scene.inputs()))["latents"]}


def second_parallel(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The second pipeline made parallel too."""
    import tokenring_xdit

    other = type(scene.plain())(**pipe.components)
    other.set_progress_bar_config(disable=True)
    if not scene.alone:
        tokenring_xdit.parallelize(other, tokenring_degree=dist.get_world_size(), host=scene.host)
    found = tensors_of(other(**scene.inputs()))
    return {**found, "first": tensors_of(pipe(**scene.inputs()))["latents"]}


def two_pipelines(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A second pipeline with parts of its own, called by turns."""
    import tokenring_xdit

    other = scene.plain()
    if not scene.alone:
        tokenring_xdit.parallelize(other, tokenring_degree=dist.get_world_size(), host=scene.host)
    found = {"first": tensors_of(pipe(**scene.inputs()))["latents"]}
    found["second"] = tensors_of(other(**scene.inputs(steps=3)))["latents"]
    return {**found, **tensors_of(pipe(**scene.inputs()))}


def twice(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Parallel twice."""
    import tokenring_xdit

    if not scene.alone:
        tokenring_xdit.parallelize(pipe, tokenring_degree=dist.get_world_size(), host=scene.host)
    return tensors_of(pipe(**scene.inputs()))


def from_image(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Image to image with the parts of the pipeline."""
    from diffusers import AutoPipelineForImage2Image

    other = AutoPipelineForImage2Image.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    inputs = scene.inputs(steps=4)
    draw = torch.Generator().manual_seed(3)
    inputs |= {"image": torch.rand(1, 3, inputs["height"], inputs["width"], generator=draw), "strength": 0.6}
    return tensors_of(other(**_fitting(other, inputs)))


def from_text(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The pipeline that diffusers chooses for the parts."""
    from diffusers import AutoPipelineForText2Image

    other = AutoPipelineForText2Image.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    return tensors_of(other(**scene.inputs()))


def perturbed(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Perturbed-attention guidance, in diffusers' pipeline for it."""
    from diffusers import AutoPipelineForText2Image

    other = AutoPipelineForText2Image.from_pipe(pipe, enable_pag=True, pag_applied_layers=["blocks.1"])
    other.set_progress_bar_config(disable=True)
    return tensors_of(other(**scene.inputs(), pag_scale=3.0))


def _model_inputs(scene: Scene) -> dict[str, Any]:
    """What the transformer is called with in the first step."""
    pipe, calls = scene.plain(), []
    names = list(inspect.signature(type(pipe.transformer).forward).parameters)[1:]

    class Enough(Exception):
        pass

    def remember(module: Any, args: Any, kwargs: Any) -> None:
        calls.append({**dict(zip(names, args, strict=False)), **kwargs})
        raise Enough

    pipe.transformer.register_forward_pre_hook(remember, with_kwargs=True)
    with contextlib.suppress(Enough):
        pipe(**scene.inputs())
    return calls[0]


def _first_tensor(value: Any) -> Any:
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value


def direct(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The transformer alone, before any call of the pipeline."""
    return {"latents": _first_tensor(pipe.transformer(**_model_inputs(scene)))}


def direct_later(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The transformer alone after a call of the pipeline."""
    pipe(**scene.inputs())
    return direct(pipe, scene)


def direct_each_rank(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The transformer alone with inputs of each rank's own."""
    pipe(**scene.inputs())
    inputs, factor = _model_inputs(scene), 1 + 0.1 * scene.rank
    for name in ("hidden_states", "x"):
        if name in inputs:
            value = inputs[name]
            inputs[name] = [factor * part for part in value] if isinstance(value, list) else factor * value
    return {"latents": _first_tensor(pipe.transformer(**inputs))}


@contextlib.contextmanager
def _folder(scene: Scene) -> Iterator[Path]:
    """A folder of the first rank's for all of them, which is removed when all have read it."""
    folders = [tempfile.mkdtemp()] if scene.rank == 0 else [""]
    if not scene.alone:
        dist.broadcast_object_list(folders, src=0)
    try:
        yield Path(folders[0])
    finally:
        if not scene.alone:
            dist.barrier()
        if scene.rank == 0:
            shutil.rmtree(folders[0])


def _wait(scene: Scene) -> None:
    if not scene.alone:
        dist.barrier()


def saved(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The folder that ``save_pretrained`` writes, loaded by diffusers alone."""
    with _folder(scene) as folder:
        pipe.save_pretrained(folder)
        _wait(scene)
        return _read(folder, scene)


def saved_later(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The same after a call and with a LoRA fused."""
    from tests.hosts.xfuser.uses.lora import EVERYTHING, load

    pipe(**scene.inputs())
    load(EVERYTHING)(pipe, scene)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return saved(pipe, scene)


def saved_by_first(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The same where the first rank alone calls it."""
    with _folder(scene) as folder:
        if scene.rank == 0:
            pipe.save_pretrained(folder)
        _wait(scene)
        return _read(folder, scene)


def _read(folder: Path, scene: Scene) -> Mapping[str, Any]:
    from diffusers import DiffusionPipeline

    files = {str(each.relative_to(folder)): each for each in sorted(folder.rglob("*.json"))}
    parts = {name: json.loads(each.read_text()) for name, each in files.items() if "token" not in name}
    loaded = DiffusionPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    found = {f"{name}: {key}": repr(value) for name, part in parts.items() for key, value in part.items()}
    return {**found, "files": sorted(files), **tensors_of(loaded(**scene.inputs()))}


def onto_a_device(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A folder that diffusers loads onto the rank's device, made parallel."""
    import tokenring_xdit

    plain = scene.plain()
    with _folder(scene) as folder:
        if scene.rank == 0:
            plain.save_pretrained(folder)
        _wait(scene)
        loaded = type(plain).from_pretrained(folder, device_map="cpu")
    loaded.set_progress_bar_config(disable=True)
    if not scene.alone:
        tokenring_xdit.parallelize(loaded, tokenring_degree=dist.get_world_size(), host=scene.host)
    return tensors_of(loaded(**scene.inputs()))


def transformer_saved(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The transformer alone, loaded by diffusers' class."""
    with _folder(scene) as folder:
        pipe.transformer.save_pretrained(folder)
        _wait(scene)
        plain = scene.plain()
        plain.transformer = type(plain.transformer).from_pretrained(folder)
        return tensors_of(plain(**scene.inputs()))


def weights(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The transformer's class, its configuration and its weights by name."""
    model, kind = pipe.transformer, type(scene.plain().transformer)
    return {
        "kind": isinstance(model, kind),
        "names": sorted(model.state_dict()),
        "modules": sorted(name for name, _ in model.named_modules()),
        "config": sorted(model.config),
        "dtype": str(model.dtype),
        "blocks": model._no_split_modules,
    }


def itself(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """What the pipeline says of itself."""
    plain = type(scene.plain())
    return {
        "kind": isinstance(pipe, plain),
        "name": type(pipe).__name__,
        "components": sorted(pipe.components),
        "config": {n: v for n, v in pipe.config.items() if not n.startswith("_") and n not in {"transformer"}},
        "signature": list(inspect.signature(pipe.__call__).parameters),
        "text": "Pipeline" in repr(pipe),
    }


def to(dtype: torch.dtype) -> Any:
    """The pipeline in another precision."""

    def change(pipe: Any, scene: Scene) -> None:
        pipe.to(dtype)

    return change


def transformer_to(dtype: torch.dtype) -> Any:
    """The transformer in another precision."""

    def change(pipe: Any, scene: Scene) -> None:
        pipe.transformer.to(dtype)

    return change


def copied(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A deep copy."""
    other = copy.deepcopy(pipe)
    return {**tensors_of(other(**scene.inputs())), "first": tensors_of(pipe(**scene.inputs()))["latents"]}


def replaced(pipe: Any, scene: Scene) -> None:
    """Another transformer in the place of the parallel one, as it is."""
    pipe.transformer = scene.plain().transformer


def registered(pipe: Any, scene: Scene) -> None:
    """The same by ``register_modules``."""
    pipe.register_modules(transformer=scene.plain().transformer)


def text_encoder_replaced(pipe: Any, scene: Scene) -> None:
    """A text encoder with other weights."""
    for parameter in pipe.text_encoder.parameters():
        parameter.mul_(1.1)


def encoder_of_each_rank(pipe: Any, scene: Scene) -> None:
    """A text encoder whose weights differ between the ranks."""
    for parameter in pipe.text_encoder.parameters():
        parameter.mul_(1 + 0.1 * scene.rank)


def controlnet_of_each_rank(pipe: Any, scene: Scene) -> None:
    """A ControlNet whose weights differ between the ranks."""
    for parameter in pipe.controlnet.parameters():
        parameter.mul_(1 + 0.1 * scene.rank)


def in_grad(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A call inside ``enable_grad``, which pipelines turn off themselves."""
    with torch.enable_grad():
        return {name: value.detach() for name, value in tensors_of(pipe(**scene.inputs())).items()}


def autocast(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A call inside ``autocast`` to bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        return {name: value.float() for name, value in tensors_of(pipe(**scene.inputs())).items()}


def inference_mode(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A call inside ``inference_mode``."""
    with torch.inference_mode():
        found = tensors_of(pipe(**scene.inputs()))
    return {name: value.clone() for name, value in found.items()}


def tiled(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Pixels by a VAE that works in slices."""
    pipe.vae.enable_slicing()
    output = pipe(**{**scene.inputs(), "output_type": "pt"})
    found = getattr(output, "images", getattr(output, "frames", None))
    return {"latents": found}


def in_tiles(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Pixels by a VAE that works in tiles that overlap."""
    vae = pipe.vae
    vae.enable_tiling()
    if hasattr(vae, "tile_latent_min_size"):  # of pictures, which the small one makes twice as large
        vae.tile_latent_min_size, vae.tile_sample_min_size = 8, 16
    output = pipe(**{**scene.inputs(), "output_type": "pt"})
    return {"latents": getattr(output, "images", getattr(output, "frames", None))}


def changing(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Calls of other sizes, numbers of prompts and lengths of text, and the first one again."""
    height = scene.inputs()["height"]
    prompts = ["a red fox in the snow", "a boat"]
    found = {"tall": tensors_of(pipe(**scene.inputs(height=2 * height)))["latents"]}
    if small(scene.family).prompts:
        found["two"] = tensors_of(pipe(**scene.inputs(prompts=prompts)))["latents"]
    found["short"] = tensors_of(pipe(**scene.inputs(prompts=["a boat"])))["latents"]
    return {**found, **tensors_of(pipe(**scene.inputs()))}


def encoded(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The prompt encoded by the pipeline and passed to it."""

    class Here(Scene):
        def plain(self) -> Any:
            return pipe

    return tensors_of(pipe(**{**scene.inputs(), **embeddings(Here(scene.family, scene.rank, scene.alone, scene.host))}))


_SAME = Use("", changes=False)
USES = {
    "second": replace(_SAME, title="a second pipeline of the same parts, after a call", call=second),
    "second-type": replace(_SAME, title="type(pipe)(**pipe.components)", call=second_of_type),
    "second-parallel": replace(_SAME, title="parallelize of a second pipeline of the same parts", call=second_parallel),
    "two-pipelines": replace(_SAME, title="two parallel pipelines by turns", call=two_pipelines),
    "twice": replace(_SAME, title="parallelize twice", call=twice, expected=Expected.REFUSED),
    "from-pipe-image": Use("AutoPipelineForImage2Image.from_pipe", call=from_image),
    "from-pipe-text": replace(_SAME, title="AutoPipelineForText2Image.from_pipe", call=from_text),
    "from-pipe-pag": Use("perturbed-attention guidance by from_pipe", call=perturbed),
    "direct": replace(_SAME, title="pipe.transformer called, alike, before a call", call=direct),
    "direct-later": replace(_SAME, title="pipe.transformer called, alike, after a call", call=direct_later),
    "direct-each-rank": replace(
        _SAME,
        title="pipe.transformer called with each rank's own",
        call=direct_each_rank,
        expected=Expected.REFUSED,
        late=True,
    ),
    "saved": replace(_SAME, title="save_pretrained on all ranks", call=saved, expected=Expected.RIGHT),
    "saved-later": Use("save_pretrained after a call, LoRA fused", call=saved_later),
    "saved-one": replace(
        _SAME, title="save_pretrained on the first rank", call=saved_by_first, expected=Expected.RIGHT
    ),
    "saved-transformer": replace(_SAME, title="transformer.save_pretrained", call=transformer_saved),
    "device-map": replace(
        _SAME,
        title='from_pretrained(..., device_map="cpu")',
        call=onto_a_device,
        expected=Expected.RIGHT,
        families=frozenset({"flux", "sd3", "wan-t2v"}),
    ),
    "weights": replace(_SAME, title="the transformer's class and weights by name", call=weights),
    "itself": replace(_SAME, title="the pipeline's class, parts and signature", call=itself),
    "to-double": replace(_SAME, title="pipe.to(torch.float64), after", after=to(torch.float64)),
    "to-double-before": replace(_SAME, title="pipe.to(torch.float64), before", before=to(torch.float64)),
    "to-bf16": replace(
        _SAME, title="pipe.to(torch.bfloat16), after", after=to(torch.bfloat16), expected=Expected.ROUNDED
    ),
    "transformer-to-bf16": replace(
        _SAME,
        title="pipe.transformer.to(torch.bfloat16), after",
        after=transformer_to(torch.bfloat16),
        expected=Expected.ROUNDED,
    ),
    "copied": replace(_SAME, title="copy.deepcopy(pipe)", call=copied),
    "replaced": replace(_SAME, title="pipe.transformer replaced by a plain one", after=replaced),
    "registered": replace(_SAME, title="register_modules(transformer=...)", after=registered),
    "encoder": Use("text encoder with other weights, after", after=text_encoder_replaced),
    "encoder-each-rank": replace(
        _SAME,
        title="text encoder of each rank's own, after",
        after=encoder_of_each_rank,
        expected=Expected.REFUSED,
    ),
    "controlnet-each-rank": replace(
        _SAME,
        title="ControlNet of each rank's own, after",
        after=controlnet_of_each_rank,
        expected=Expected.REFUSED,
        families=frozenset(name for name in TASKS if "controlnet" in name),
    ),
    "grad": replace(_SAME, title="a call inside enable_grad", call=in_grad),
    "autocast": replace(_SAME, title="a call inside autocast to bf16", call=autocast, expected=Expected.ROUNDED),
    "inference-mode": replace(_SAME, title="a call inside inference_mode", call=inference_mode),
    "slices": replace(_SAME, title="VAE in slices", call=tiled),
    "tiles": replace(_SAME, title="VAE in tiles", call=in_tiles),
    "changing": replace(_SAME, title="calls of other sizes, texts and batches", call=changing),
    "encoded": replace(_SAME, title="pipe.encode_prompt, then the call", call=encoded),
    "plain": replace(_SAME, title="a plain call", call=called(), expected=Expected.RIGHT),
}
