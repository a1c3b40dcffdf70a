"""Which pipeline is made of a model: its class by AutoPipeline's rules, a ControlNet, another scheduler, LoRAs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tokenring_xdit.errors import ConfigurationError, UnsupportedError, nearest
from tokenring_xdit.messages import one_line, shown
from tokenring_xdit.pipelines.values import is_number

__all__ = [
    "AUTO_TASKS",
    "Lora",
    "PipelineChoice",
    "class_for_task",
    "refuse_controlnet",
    "refuse_loras",
    "refuse_scheduler",
]

_MAPPINGS = {
    "text-to-image": "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    "image-to-image": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "inpainting": "AUTO_INPAINT_PIPELINES_MAPPING",
    "text-to-video": "AUTO_TEXT2VIDEO_PIPELINES_MAPPING",
    "image-to-video": "AUTO_IMAGE2VIDEO_PIPELINES_MAPPING",
    "video-to-video": "AUTO_VIDEO2VIDEO_PIPELINES_MAPPING",
}

_MORE = {
    "inpainting": {
        "qwenimage-controlnet": "QwenImageControlNetInpaintPipeline",
        "z-image-controlnet": "ZImageControlNetInpaintPipeline",
    },
    "text-to-video": {"cogvideox": "CogVideoXPipeline"},
    "video-to-video": {"cogvideox": "CogVideoXVideoToVideoPipeline"},
}
"""What diffusers has and its tables lack."""

_CONTROLLED = "-controlnet"
"""What the tables add to the name of a model that a ControlNet goes with."""

AUTO_TASKS = tuple(_MAPPINGS)
"""What diffusers' AutoPipeline makes of a model."""

_CALL = ("sigmas", "timesteps", "mu")
"""What pipelines hand to ``set_timesteps`` of a scheduler for flow matching."""


_DRAW = frozenset(
    f"{name}Scheduler"
    for name in (
        "CMStochasticIterative",
        "DDPM",
        "DPMSolverSDE",
        "EulerAncestralDiscrete",
        "FlowMatchLCM",
        "KDPM2AncestralDiscrete",
        "LCM",
        "SASolver",
        "TCD",
    )
)
"""Schedulers that add noise in each step."""


@dataclass(frozen=True)
class Lora:
    """A LoRA.

    Attributes:
        path: File or folder of safetensors, or a hub name.
        scale: How much of it is added.
    """

    path: str
    scale: float = 1.0

    @classmethod
    def parse(cls, value: Any) -> Lora:
        """One as users write it: a path, a path and a scale, or a mapping of both.

        Raises:
            ConfigurationError: It is none of these.
        """
        if isinstance(value, cls):
            value = (value.path, value.scale)
        if isinstance(value, (str, Path)):
            value = (str(value), 1.0)
        if isinstance(value, Mapping) and "path" in value and value.keys() <= {"path", "scale"}:
            value = (value["path"], value.get("scale", 1.0))
        if isinstance(value, (list, tuple)) and len(value) == 2:
            path, scale = value
            if isinstance(path, (str, Path)) and str(path) and is_number(scale):
                return cls(str(path), float(scale))
        raise ConfigurationError(
            f"{shown(value)} is no LoRA: it has to be the file, folder or hub name of one, or a mapping of its 'path' "
            "and its 'scale', a finite number"
        )

    @classmethod
    def parse_all(cls, value: Any) -> tuple[Lora, ...]:
        """All that are wanted, one behind the other.

        Raises:
            ConfigurationError: One of them is none.
        """
        alone = isinstance(value, (str, Path, Mapping, cls))
        if not alone and not isinstance(value, (list, tuple)):
            raise ConfigurationError(f"{shown(value)} is no list of LoRAs")
        return tuple(cls.parse(each) for each in ([value] if alone else value))


@dataclass(frozen=True)
class PipelineChoice:
    """What is made of a model.

    Attributes:
        task: One of :data:`AUTO_TASKS`; ``None`` leaves the class to the model.
        scheduler: Class of diffusers; ``None`` leaves it to the model.
        loras: What is added to its weights.
        controlnet: Folder or hub name of a ControlNet that goes with it.
    """

    task: str | None = None
    scheduler: str | None = None
    loras: tuple[Lora, ...] = field(default=())
    controlnet: str | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in AUTO_TASKS:
            raise ConfigurationError(f"task: {shown(self.task)} is not allowed. {nearest(str(self.task), AUTO_TASKS)}")
        if self.controlnet is not None and not (isinstance(self.controlnet, str) and self.controlnet):
            raise ConfigurationError(
                f"controlnet is {shown(self.controlnet)}; it has to be the folder or hub name of one ControlNet"
            )

    @property
    def changes_class(self) -> bool:
        """Whether the class need not be the one that the model names."""
        return self.task is not None or self.controlnet is not None

    def put_on(self, pipe: Any) -> None:
        """Give a pipeline that was loaded its scheduler and its LoRAs.

        Raises:
            ConfigurationError: A LoRA does not fit it.
        """
        if self.scheduler is not None:
            import diffusers

            pipe.scheduler = getattr(diffusers, self.scheduler).from_config(pipe.scheduler.config)
        names = [f"lora_{number}" for number in range(len(self.loras))]
        for name, lora in zip(names, self.loras, strict=True):
            _load(pipe, lora, name)
        if names:
            pipe.set_adapters(names, [lora.scale for lora in self.loras])


def class_for_task(found: str, task: str | None, *, controlled: bool = False) -> str:
    """The class of pipelines that AutoPipeline takes for a task.

    Args:
        found: The class that a model names.
        task: One of :data:`AUTO_TASKS`; ``None`` leaves it to the model.
        controlled: Whether a ControlNet goes with it; without a task one that makes pictures of texts.

    Raises:
        UnsupportedError: diffusers has none.
    """
    if task is None and not controlled:
        return found
    tables = _tables()
    models = [model for table in tables.values() for model, kind in table.items() if kind == found]
    model = next(iter(models), "")
    if controlled and not model.endswith(_CONTROLLED):
        model += _CONTROLLED
    able = [name for name, table in tables.items() if model in table]
    wanted = "text-to-image" if task is None else task
    if wanted not in able:
        known = f"it has one for {' and '.join(able)}" if able else "it has none for any task"
        what, instead = ("a ControlNet and ", "leave the ControlNet out") if controlled else ("", "leave the task out")
        raise UnsupportedError(
            f"{'controlnet' if controlled else 'task'}: diffusers has no pipeline for {wanted} with {what}what {found} "
            f"consists of; {known}: {'choose that, or ' if able else ''}{instead}"
        )
    return tables[wanted][model]


def refuse_controlnet(name: str, config: Mapping[str, Any], pipeline_class: type) -> None:
    """Refuse a ControlNet that is none for a pipeline.

    Args:
        name: Its folder or hub name.
        config: Its own, of ``config.json``.
        pipeline_class: The class of the pipeline.

    Raises:
        ConfigurationError: It is one for others.
    """
    found, wanted = str(config.get("_class_name")), str(_annotation(pipeline_class, "controlnet"))
    if found not in re.findall(r"\w+", wanted):
        takes = next((word for word in re.findall(r"\w+ControlNetModel", wanted) if "Multi" not in word), "none")
        raise ConfigurationError(
            f"controlnet: {shown(name)} is a {found}, and {pipeline_class.__name__} takes a {takes}: name one of those"
        )


def refuse_scheduler(wanted: str, config: Mapping[str, Any], pipeline_class: type) -> None:
    """Refuse a scheduler that does not step as a model's own does, or does not obey seeds.

    Args:
        wanted: Class of diffusers.
        config: Config of the model's own scheduler.
        pipeline_class: The class of its pipeline.

    Raises:
        ConfigurationError: There is no such scheduler, or it does not.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    kinds = {name for name in dir(diffusers) if name.endswith("Scheduler") and "Flax" not in name}
    if wanted not in kinds:
        raise ConfigurationError(f"scheduler: diffusers has no {shown(wanted)}. {nearest(str(wanted), sorted(kinds))}")
    own = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, wanted)
    mine: Any = getattr(diffusers, own, None)
    if wanted == own:
        return
    fits = mine is not None and issubclass(kind, SchedulerMixin)
    if fits:
        fitting = {each.__name__ for each in mine.from_config(dict(config)).compatibles}
        flows = own.startswith("FlowMatch")
        fits = wanted.startswith("FlowMatch") if flows else wanted in fitting
        if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
            fits = fits and "use_flow_sigmas" in _parameters(kind.__init__)
        taken = _parameters(mine.set_timesteps) & set(_CALL) if flows else set()
        fits = fits and taken <= _parameters(kind.set_timesteps)
    if not fits:
        raise ConfigurationError(
            f"scheduler: {wanted} does not step as {own} does, for which the model was made: choose another one, or "
            "leave it out"
        )
    if wanted in _DRAW and not hasattr(pipeline_class, "prepare_extra_step_kwargs"):
        raise ConfigurationError(
            f"scheduler: {wanted} adds noise in each step, and {pipeline_class.__name__} does not pass it the seed: "
            "choose another one, or leave it out"
        )


def refuse_loras(loras: Sequence[Lora], pipeline_class: type) -> None:
    """Refuse LoRAs that cannot be loaded, as far as that shows before.

    Raises:
        ConfigurationError: One cannot, or nothing here loads any.
        UnsupportedError: The pipeline takes none.
    """
    if not loras:
        return
    if not hasattr(pipeline_class, "load_lora_weights"):
        raise UnsupportedError(f"loras: diffusers loads none into {pipeline_class.__name__}: leave them out")
    if find_spec("peft") is None:
        raise ConfigurationError("loras: diffusers loads them with peft, which is missing: pip install peft")
    for lora in loras:
        path = Path(lora.path)
        if path.is_file() and path.suffix != ".safetensors":
            raise ConfigurationError(f"loras: {shown(lora.path)} is no .safetensors file")
        if path.is_file():
            _refuse_damaged(path)
        if path.is_dir() and not any(path.glob("*.safetensors")):
            raise ConfigurationError(f"loras: the folder {shown(lora.path)} has no .safetensors file")
        if not path.exists() and (lora.path.count("/") != 1 or lora.path.startswith((".", "/", "~"))):
            raise ConfigurationError(f"loras: there is no file or folder {shown(lora.path)}")


def _refuse_damaged(path: Path) -> None:
    try:
        with safe_open(path, framework="np") as file:
            empty = not file.keys()
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"loras: {shown(str(path))} cannot be read: {one_line(str(error))}") from error
    if empty:
        raise ConfigurationError(f"loras: {shown(str(path))} has no weights in it")


def _tables() -> dict[str, dict[str, str]]:
    """By task and name of a model, the names of classes; an older diffusers has no tables for videos."""
    from diffusers.pipelines import auto_pipeline

    return {
        task: {
            **{model: kind.__name__ for model, kind in getattr(auto_pipeline, table, {}).items()},
            **_MORE.get(task, {}),
        }
        for task, table in _MAPPINGS.items()
    }


def _annotation(pipeline_class: Any, part: str) -> Any:
    parameter = inspect.signature(pipeline_class.__init__).parameters.get(part)
    return None if parameter is None else parameter.annotation


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _load(pipe: Any, lora: Lora, name: str) -> None:
    kind, path = type(pipe).__name__, Path(lora.path)
    if path.is_absolute() and not path.exists():
        raise ConfigurationError(f"loras: there is no file or folder {shown(lora.path)} on this rank")
    place, more = (str(path.parent), {"weight_name": path.name}) if path.is_file() else (lora.path, {})
    try:
        pipe.load_lora_weights(place, adapter_name=name, use_safetensors=True, **more)
    except Exception as error:  # of diffusers, peft, safetensors, torch or the hub
        raise ConfigurationError(f"loras: {shown(lora.path)} does not fit {kind}: {one_line(str(error))}") from error
    if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
        raise ConfigurationError(f"loras: {shown(lora.path)} has nothing for the layers of {kind}")
