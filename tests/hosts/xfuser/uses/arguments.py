"""Arguments of the call: forms that people use, and values that differ between ranks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.hosts.xfuser.uses.harness import (
    Call,
    Expected,
    MistakenTestError,
    Scene,
    Use,
    baseline,
    called,
    tensors_of,
)
from tests.support.kinds import Small, known
from tests.support.small import small

_WITH_MASKS = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
_WITH_POOLED = ("prompt_embeds", "pooled_prompt_embeds", "")
_WITH_NEGATIVE = ("prompt_embeds", "negative_prompt_embeds")
_WITH_A_MASK = ("prompt_embeds", "prompt_embeds_mask")
RETURNS = {
    **dict.fromkeys(("FluxPipeline", "FluxControlPipeline"), _WITH_POOLED),
    **dict.fromkeys(("Flux2Pipeline", "Flux2KleinPipeline"), ("prompt_embeds", "")),
    "StableDiffusion3Pipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    **dict.fromkeys(("PixArtAlphaPipeline", "PixArtSigmaPipeline", "Lumina2Pipeline"), _WITH_MASKS),
    **dict.fromkeys(("LTXPipeline", "LTX2Pipeline", "MochiPipeline", "AuraFlowPipeline"), _WITH_MASKS),
    "ChromaPipeline": (
        "prompt_embeds",
        "",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "",
        "negative_prompt_attention_mask",
    ),
    "HunyuanDiTPipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_attention_mask",
    ),
    **dict.fromkeys(("QwenImagePipeline", "Krea2Pipeline"), _WITH_A_MASK),
    **dict.fromkeys(("ZImagePipeline", "CogVideoXPipeline", "LattePipeline", "CogView4Pipeline"), _WITH_NEGATIVE),
    **dict.fromkeys(("WanPipeline", "WanImageToVideoPipeline", "SkyReelsV2Pipeline"), _WITH_NEGATIVE),
    "ChronoEditPipeline": _WITH_NEGATIVE,
    "BriaPipeline": (*_WITH_NEGATIVE, ""),
    "HunyuanVideoPipeline": ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"),
    "HunyuanVideo15Pipeline": (*_WITH_A_MASK, "prompt_embeds_2", "prompt_embeds_mask_2"),
}
"""What ``encode_prompt`` returns, in order, by the names that the call takes it with; nothing takes what has none."""


def returns(family: str) -> tuple[str, ...]:
    """What ``encode_prompt`` of a family returns, or of a task, which has that of its family."""
    found = small(family)
    runs = known(found.family).runs if isinstance(found, Small) else found.runs
    if runs not in RETURNS:
        raise MistakenTestError(f"nobody wrote down what encode_prompt of a {runs} returns")
    return RETURNS[runs]


def embeddings(scene: Scene) -> dict[str, Any]:
    """The prompt's embeddings, in the place of the prompt."""
    pipe, inputs = scene.plain(), scene.inputs()
    parameters = inspect.signature(pipe.encode_prompt).parameters
    given = {name: value for name, value in inputs.items() if name in parameters}
    for name, parameter in parameters.items():
        if name in {"device", "dtype"}:
            given[name] = torch.device("cpu") if name == "device" else torch.float32
        elif parameter.default is inspect.Parameter.empty and name not in given and name != "kwargs":
            given[name] = {"num_images_per_prompt": 1}.get(name)
    encoded = pipe.encode_prompt(**given)
    names = returns(scene.family)
    if len(names) != len(encoded):
        raise MistakenTestError(f"encode_prompt of {scene.family} returns {len(encoded)}, not {len(names)}")
    found = {name: value for name, value in zip(names, encoded, strict=True) if name}
    if "text_encoder_index" in parameters:  # HunyuanDiT's second encoder
        second = pipe.encode_prompt(**{**given, "text_encoder_index": 1})
        found |= {f"{name}_2": value for name, value in zip(found, second, strict=True)}
    cleared: dict[str, Any] = {"prompt": None}
    if any(name.startswith("negative") for name in found) and "negative_prompt" in inputs:
        cleared["negative_prompt"] = "" if "PixArt" in type(pipe).__name__ else None
    return {**cleared, **found}


def _varied(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_varied(part, factor) for part in value]
    return factor * value if isinstance(value, Tensor) and value.is_floating_point() else value


def embedded(factor: Callable[[Scene], float], only: str = "") -> Call:
    """A call with embeddings in the place of a prompt, some of them times a factor."""

    def extra(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        found = embeddings(scene)
        if only and found.get(only) is None:
            raise TypeError(f"has no {only}")
        return {name: _varied(v, factor(scene)) if not only or name == only else v for name, v in found.items()}

    return called(extra)


def own_latents(seed: Callable[[Scene], int]) -> Call:
    """A call with noise of the user's."""

    def extra(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        shape = baseline(scene.family, scene.host)["latents"].shape
        return {"latents": torch.randn(shape, generator=torch.Generator().manual_seed(seed(scene)))}

    return called(extra)


def picture(change: Callable[[Any, Scene], Any]) -> Call:
    """A call with another picture, where the family takes one."""

    def extra(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        for name in ("control_image", "image"):
            if name in (inputs := scene.inputs()):
                return {name: change(inputs[name], scene)}
        raise TypeError("takes no picture")

    return called(extra)


def _as_array(value: Any) -> Any:
    import numpy

    if isinstance(value, Tensor):
        return ((value + 1) / 2).permute(0, 2, 3, 1).numpy()
    return numpy.asarray(value)


def as_array(value: Any, scene: Scene) -> Any:
    """As a numpy array."""
    return _as_array(value)


def as_pil(value: Any, scene: Scene) -> Any:
    """As a picture of pillow."""
    from PIL import Image

    return Image.fromarray((_as_array(value)[0] * 255).round().astype("uint8")) if isinstance(value, Tensor) else value


def array_of_each_rank(value: Any, scene: Scene) -> Any:
    """An array that is darker on the second rank."""
    return _as_array(value) * (1 - 0.3 * scene.rank)


def pil_of_each_rank(value: Any, scene: Scene) -> Any:
    """A picture that is mirrored on the second rank."""
    from PIL import ImageOps

    found = as_pil(value, scene)
    return ImageOps.flip(found) if scene.rank else found


def tensor_of_each_rank(value: Any, scene: Scene) -> Any:
    """A tensor that differs in one pixel."""
    found = value.clone() if isinstance(value, Tensor) else torch.tensor(_as_array(value)).permute(2, 0, 1)[None] / 255
    found[..., 0, 0] += 0.5 * scene.rank
    return found


def size_of_each_rank(value: Any, scene: Scene) -> Any:
    """A picture of another size on the second rank."""
    found = as_pil(value, scene)
    return found.resize((found.width * (1 + scene.rank), found.height))


def listed(value: Any, scene: Scene) -> Any:
    """A list of one."""
    return [as_pil(value, scene)]


def images_name(scene: Scene) -> str:
    """What the pipeline calls the number of pictures of a prompt."""
    names = inspect.signature(type(scene.plain()).__call__).parameters
    for name in ("num_images_per_prompt", "num_videos_per_prompt"):
        if name in names:
            return name
    raise TypeError("makes one of a prompt")


def several(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Two of a prompt."""
    return {images_name(scene): 2}


def generators(seeds: Callable[[Scene], list[int]]) -> Call:
    """A generator for each of two pictures."""

    def extra(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        return {images_name(scene): 2, "generator": [torch.Generator().manual_seed(s) for s in seeds(scene)]}

    return called(extra)


def _guidance(scene: Scene) -> str:
    inputs = scene.inputs()
    return "true_cfg_scale" if "qwen" in scene.family else "guidance_scale" if "guidance_scale" in inputs else ""


def guidance(value: Callable[[Scene], float], *without: str) -> Call:
    """A call with another guidance."""
    return called(lambda pipe, scene: {_guidance(scene): value(scene)}, without=without)


def option(name: str, value: Any, of_rank: Any = None, **others: Any) -> Call:
    """A call with an argument of its own, another one on the second rank where that is given."""

    def extra(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        if name not in inspect.signature(type(scene.plain()).__call__).parameters:
            raise TypeError(f"takes no {name}")
        return {name: value if of_rank is None or scene.rank == 0 else of_rank, **others}

    return called(extra)


def unknown_on_one(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """An argument that no pipeline has, on the second rank alone."""
    extra = {"no_such_argument": 1} if scene.rank == 1 else {}
    return tensors_of(pipe(**scene.inputs(), **extra))


def bad_on_all(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """A prompt that is a number, on all ranks, then a call that is right."""
    said = ""
    try:
        pipe(**{**scene.inputs(), "prompt": 5})
    except (ValueError, TypeError, AttributeError) as error:
        said = type(error).__name__
    return {**tensors_of(pipe(**scene.inputs())), "said": said}


def bad_on_one(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """An argument of a wrong kind on the second rank."""
    extra = {"num_inference_steps": object()} if scene.rank == 1 else {}
    return tensors_of(pipe(**{**scene.inputs(), **extra}))


def attributes(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """What the pipeline says of its last call."""
    found = tensors_of(pipe(**scene.inputs()))
    for name, _ in inspect.getmembers(type(scene.plain()), lambda member: isinstance(member, property)):
        if name not in {"components", "config", "device", "parameters", "_execution_device", "name_or_path"}:
            value = getattr(pipe, name, "missing")
            found[name] = value.tolist() if isinstance(value, Tensor) else value
    found["steps"] = pipe.scheduler.timesteps.clone()
    return found


def as_tuple(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The result as a tuple."""
    result = pipe(**scene.inputs(), return_dict=False)
    assert isinstance(result, tuple)
    latents = result[0]
    return {"latents": torch.stack(latents) if isinstance(latents, list) else latents, "parts": len(result)}


def pixels(kind: str) -> Call:
    """Pictures in place of latents."""

    def call(pipe: Any, scene: Scene) -> Mapping[str, Any]:
        import numpy

        output = pipe(**{**scene.inputs(), "output_type": kind})
        found = getattr(output, "images", getattr(output, "frames", None))
        if isinstance(found, list):
            while isinstance(found[0], list):
                (found,) = found
            found = numpy.stack([numpy.asarray(each) for each in found])
        return {"latents": torch.as_tensor(found).double()}

    return call


def positional(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """The prompt without its name."""
    inputs = scene.inputs()
    first = next(iter(inspect.signature(type(scene.plain()).__call__).parameters.values()))
    assert first.name == "self"
    second = list(inspect.signature(type(scene.plain()).__call__).parameters)[1]
    return tensors_of(pipe(inputs.pop(second), **inputs))


def one_prompt(pipe: Any, scene: Scene) -> Mapping[str, Any]:
    """Prompts as words, not as lists."""
    return {name: scene.inputs()[name][0] for name in ("prompt", "negative_prompt") if name in scene.inputs()}


_REFUSED = Use("", expected=Expected.REFUSED, changes=False)
_SAME = Use("", changes=False, expected=Expected.RIGHT)
USES = {
    "attributes": replace(_SAME, title="the pipeline's attributes after a call", call=attributes),
    "tuple": replace(_SAME, title="return_dict=False", call=as_tuple),
    "positional": replace(_SAME, title="the prompt without its name", call=positional),
    "word": replace(_SAME, title="a prompt that is no list", call=called(one_prompt)),
    "pt": replace(_SAME, title='output_type="pt"', call=pixels("pt")),
    "pil": Use('output_type="pil"', call=pixels("pil"), tolerance=1 / 255),
    "embeddings": replace(_SAME, title="embeddings for a prompt", call=embedded(lambda scene: 1.0)),
    "latents": Use("latents of the user's", call=own_latents(lambda scene: 1), expected=Expected.RIGHT),
    "prompts": Use(
        "two prompts",
        call=called(lambda pipe, scene: {}, prompts=["a red fox in the snow", "a boat"]),
        expected=Expected.RIGHT,
    ),
    "images": Use("two of a prompt", call=called(several)),
    "generators": Use("a generator for each of two", call=generators(lambda scene: [1, 2])),
    "guidance-0": Use("guidance 0", call=guidance(lambda scene: 0.0)),
    "guidance-1": Use("guidance 1", call=guidance(lambda scene: 1.0)),
    "guidance-0-bare": Use("guidance 0, no negative prompt", call=guidance(lambda scene: 0.0, "negative_prompt")),
    "guidance-1-bare": Use("guidance 1, no negative prompt", call=guidance(lambda scene: 1.0, "negative_prompt")),
    "guidance-half": Use("guidance 0.5", call=guidance(lambda scene: 0.5)),
    "guidance-strong": Use("guidance 12", call=guidance(lambda scene: 12.0)),
    "true-cfg": Use(
        "true_cfg_scale=3 with a negative prompt", call=option("true_cfg_scale", 3.0, negative_prompt="blurry")
    ),
    "rescale": Use("guidance_rescale=0.7", call=option("guidance_rescale", 0.7)),
    "normalised": Use("cfg_normalization=True", call=option("cfg_normalization", True)),
    "truncated": Use("cfg_trunc_ratio=0.5", call=option("cfg_trunc_ratio", 0.5)),
    "truncation": Use("cfg_truncation=0.1", call=option("cfg_truncation", 0.1)),
    "dynamic": Use("use_dynamic_cfg=True", call=option("use_dynamic_cfg", True)),
    "guidance-second": Use("guidance_scale_2=2", call=option("guidance_scale_2", 2.0)),
    "sigmas": Use("sigmas", call=option("sigmas", [1.0, 0.6], num_inference_steps=2)),
    "timesteps": Use("timesteps", call=option("timesteps", [900, 300], num_inference_steps=None)),
    "clip-skip": Use("clip_skip=1", call=option("clip_skip", 1)),
    "no-mask": Use("mask_feature=False", call=option("mask_feature", False)),
    "no-time": Use("enable_temporal_attentions=False", call=option("enable_temporal_attentions", False)),
    "rate": Use("frame_rate=12", call=option("frame_rate", 12.0)),
    "second-prompt": Use("prompt_2", call=option("prompt_2", "a cat")),
    "max-length": Use("another max_sequence_length", call=option("max_sequence_length", 8)),
    "size": Use("another size", call=called(lambda pipe, scene: {"height": 2 * scene.inputs()["height"]})),
    "picture-array": Use("a picture as an array", call=picture(as_array), changes=False),
    "picture-pil": Use("a picture of pillow", call=picture(as_pil), changes=False),
    "picture-list": Use("a list of one picture", call=picture(listed), changes=False),
    "bad-on-all": replace(_SAME, title="a mistake on all ranks, then a right call", call=bad_on_all),
    "prompt-each-rank": replace(
        _REFUSED,
        title="prompts of each rank's own",
        call=called(lambda pipe, scene: {"prompt": [f"a boat {scene.rank}"]}),
        names=("prompt",),
    ),
    "latents-each-rank": replace(
        _REFUSED,
        title="latents of each rank's own",
        call=own_latents(lambda scene: scene.rank),
        names=("latents",),
    ),
    "embeddings-each-rank": replace(
        _REFUSED,
        title="embeddings of each rank's own",
        call=embedded(lambda scene: 1 + 0.1 * scene.rank),
        names=("prompt_embeds",),
    ),
    "negative-each-rank": replace(
        _REFUSED,
        title="negative embeddings of each rank's own",
        call=embedded(lambda scene: 1 + 0.1 * scene.rank, "negative_prompt_embeds"),
        names=("negative_prompt_embeds",),
    ),
    "pooled-each-rank": replace(
        _REFUSED,
        title="pooled embeddings of each rank's own",
        call=embedded(lambda scene: 1 + 0.1 * scene.rank, "pooled_prompt_embeds"),
        names=("pooled_prompt_embeds",),
    ),
    "array-each-rank": replace(_REFUSED, title="arrays of each rank's own", call=picture(array_of_each_rank)),
    "pil-each-rank": replace(_REFUSED, title="pictures of each rank's own", call=picture(pil_of_each_rank)),
    "pixel-each-rank": replace(_REFUSED, title="pictures that differ in a pixel", call=picture(tensor_of_each_rank)),
    "size-each-rank": replace(_REFUSED, title="pictures of different sizes", call=picture(size_of_each_rank)),
    "generators-each-rank": replace(
        _REFUSED, title="generators of each rank's own", call=generators(lambda scene: [1, 2 + scene.rank])
    ),
    "steps-each-rank": replace(
        _REFUSED,
        title="steps of each rank's own",
        call=called(lambda pipe, scene: {"num_inference_steps": 2 + scene.rank}),
        names=("num_inference_steps",),
    ),
    "guidance-each-rank": replace(
        _REFUSED, title="guidance of each rank's own", call=guidance(lambda scene: 3.0 + scene.rank)
    ),
    "output-each-rank": replace(
        _REFUSED,
        title="output_type of each rank's own",
        call=option("output_type", "latent", "pt"),
        names=("output_type",),
    ),
    "kwargs-each-rank": replace(
        _REFUSED,
        title="attention_kwargs of each rank's own",
        call=option("attention_kwargs", {"scale": 1.0}, {"scale": 0.5}),
        names=("attention_kwargs",),
    ),
    "joint-kwargs-each-rank": replace(
        _REFUSED,
        title="joint_attention_kwargs of each rank's own",
        call=option("joint_attention_kwargs", {"scale": 1.0}, {"scale": 0.5}),
        names=("joint_attention_kwargs",),
    ),
    "kind-on-one": replace(_REFUSED, title="an argument of a wrong kind on one rank", call=bad_on_one),
    "unknown-on-one": replace(
        _REFUSED,
        title="an unknown argument on one rank",
        call=unknown_on_one,
        raising=frozenset({1}),
        own="TypeError",
    ),
}
