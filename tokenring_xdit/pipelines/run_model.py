"""What a run's config comes to with its model: the class of its pipeline, requests, outputs, and what does not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError, UnsupportedError
from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.hosts.parallelize import refuse_engine_host
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of, refuse_choice
from tokenring_xdit.pipelines.picture_files import STAND_IN, read_files
from tokenring_xdit.pipelines.pictures import VIDEOS
from tokenring_xdit.pipelines.request import (
    Request,
    image_keyword,
    is_video,
    missing_for_videos,
    mistakes,
    pipeline_class,
)
from tokenring_xdit.pipelines.run import FILE_KEYS, NOT_OPTIONS, SUFFIXES, RunConfig
from tokenring_xdit.pipelines.run_prompts import numbered
from tokenring_xdit.pipelines.run_values import is_url
from tokenring_xdit.pipelines.signatures import takes
from tokenring_xdit.pipelines.text_models import is_text_model

__all__ = ["files_for", "inspect_model", "pictures_written", "pipeline_of", "request_of"]


def pipeline_of(config: RunConfig) -> type:
    """The class of the pipeline.

    Raises:
        TokenRingError: There is no such model, or it was not compared.
    """
    return pipeline_class(pipeline_class_of(config.model, config.choice))


def files_for(config: RunConfig, pipeline: type) -> dict[str, tuple[str, ...]]:
    """The files of pictures, by the arguments of a pipeline that they are for.

    Args:
        config: The run.
        pipeline: The pipeline's class.

    Raises:
        ConfigurationError: Two keys are for one argument.
    """
    found: dict[str, tuple[str, ...]] = {}
    for key in FILE_KEYS:
        files = getattr(config, key)
        controls = key == "image" and image_keyword(pipeline) != key and not takes(pipeline, key)
        name = image_keyword(pipeline) if controls else key
        if files is not None and name in found:
            raise ConfigurationError(f"{key}: is called '{name}' by {pipeline.__name__}, which is said as well")
        if files is not None:
            found[name] = files
    return found


def request_of(
    config: RunConfig,
    first: int,
    prompts: tuple[str, ...],
    pipeline: type,
    pictures: Mapping[str, Sequence[Any]] | None = None,
) -> Request:
    """What to ask the pipeline for.

    Args:
        config: The run.
        first: Number of the first prompt among all.
        prompts: Those that are generated together.
        pipeline: The pipeline's class.
        pictures: What was read of :func:`files_for`, for all prompts.
    """
    strength = {} if config.strength is None else {"strength": config.strength}
    whole = pipeline_named(pipeline.__name__).references
    chosen = {
        name: _part(name, each, slice(first, first + len(prompts)), whole) for name, each in (pictures or {}).items()
    }
    request = Request(
        prompt=prompts if len(prompts) > 1 else prompts[0],
        negative_prompt=config.negative_prompt,
        width=config.size.width if config.size else None,
        height=config.size.height if config.size else None,
        frames=config.frames,
        steps=config.steps,
        seed=config.seed + first,
        guidance=config.guidance,
        options={**config.options, **strength, **chosen},
        largest_side=config.largest_side,
    )
    return find_model(config.model, config.choice).complete(request)


def pictures_written(config: RunConfig) -> list[Path]:
    """Where the results go, one for each prompt.

    Raises:
        TokenRingError: There is no such model, or it was not compared.
    """
    video = is_video(pipeline_of(config))
    path = Path(config.output or f"outputs/{Path(config.model).name}{SUFFIXES[video]}")
    return numbered(path, len(config.prompts()))


def inspect_model(config: RunConfig, brought: Collection[str] = ()) -> list[str]:
    """Mistakes that show once the model's own description is read; nothing else of it is loaded.

    Args:
        config: The run.
        brought: Arguments that are pictures and come later.

    Raises:
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    try:
        pipeline = pipeline_of(config)
        model = find_model(config.model, config.choice)
    except ModelUnreachableError:
        raise
    except TokenRingError as error:
        hint = "; it is a language model: write task: text" if is_text_model(config.model) else ""
        return [f"model: {error}{hint}"]
    found = []
    degrees = ParallelDims(ulysses=config.ulysses_degree, tokenring=config.tokenring_degree)  # whatever the schedule
    try:
        model.refuse_degrees(degrees)
    except UnsupportedError as error:
        found.append(str(error))
    for check in (partial(refuse_choice, config.model, config.choice), partial(_refuse_host, config, pipeline)):
        try:
            check()
        except ModelUnreachableError:
            raise
        except TokenRingError as error:
            found.append(str(error))
    missing = any(not is_url(file) and not Path(file).is_file() for file in config.files_named())  # told before
    pictures, wrong = ({}, []) if missing else _pictures(config, pipeline)
    found += wrong
    pictures |= {name: [STAND_IN] for name in brought}
    options = {name: value for name, value in config.options.items() if name not in NOT_OPTIONS}  # told before
    allowed = config.model_copy(update={"options": options})
    request = request_of(allowed, 0, config.some_prompts(), pipeline, pictures)
    unfit = [] if wrong or missing else mistakes(pipeline, request)
    if not unfit and not found:
        try:
            model.check_request(degrees, request)
        except TokenRingError as error:
            unfit.append(str(error))
    found += unfit
    video = is_video(pipeline)
    for package in missing_for_videos()[:1] if video else ():
        found.append(
            f"model: {pipeline.__name__} makes videos, and {package} is missing: pip install 'tokenring-xdit[video]'"
        )
    suffix = Path(config.output).suffix.lower() if config.output is not None else SUFFIXES[video]
    if suffix in SUFFIXES and suffix != SUFFIXES[video]:
        kind = "a video" if video else "a picture"
        found.append(f"output: '{config.output}', but {pipeline.__name__} makes {kind}: use {SUFFIXES[video]}")
    return found


def _part(name: str, each: Sequence[Any], prompts: slice, whole: bool) -> Any:
    """What of the pictures of an option goes with some prompts."""
    if name in VIDEOS:
        return list(each)
    return each[0] if len(each) == 1 else each if whole else each[prompts]


def _refuse_host(config: RunConfig, pipeline: type) -> None:
    refuse_engine_host(
        pipeline.__name__,
        config.ulysses_degree * config.tokenring_degree,
        ulysses_degree=config.ulysses_degree,
        attention_backend=config.attention_backend,
        cuda_graphs=config.cuda_graphs,
    )


def _pictures(config: RunConfig, pipeline: type) -> tuple[dict[str, Any], list[str]]:
    """The pictures of a config as far as they are here, and what is wrong with them."""
    try:
        files = files_for(config, pipeline)
    except ConfigurationError as error:
        return {}, [str(error)]
    none = [name for name in files if not takes(pipeline, name)]
    if none:
        return {}, [f"{name}: {files[name][0]} was given, and {pipeline.__name__} takes none" for name in none]
    prompts = 0
    with contextlib.suppress(ConfigurationError):
        prompts = len(config.prompts())
    references = pipeline_named(pipeline.__name__).references
    wrong = [
        f"{name}: has {len(each)} files for {prompts} prompts: name one for all, or one for each"
        for name, each in files.items()
        if prompts and not references and name not in VIDEOS and len(each) not in {1, prompts}
    ]
    if wrong:
        return {}, wrong
    try:
        return read_files(files, fetch=False), []
    except ConfigurationError as error:
        return {}, [str(error)]
