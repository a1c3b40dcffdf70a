"""Pictures, videos and answers of language models from Python, on several ranks, without ``torchrun``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenring_xdit.defaults import DEFAULT_SCHEDULE, KEPT_CHATS, LARGEST_SIDE
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.choice import Lora, PipelineChoice
from tokenring_xdit.pipelines.messages import Step
from tokenring_xdit.pipelines.ranked_engine import RankedEngine
from tokenring_xdit.pipelines.request import DRAWN_SEEDS, Request
from tokenring_xdit.pipelines.text_engine import Chat, Texts
from tokenring_xdit.pipelines.text_models import is_text_model

if TYPE_CHECKING:
    from tokenring_xdit.graphs import GraphReport
    from tokenring_xdit.hosts.xfuser import AttentionBackend
    from tokenring_xdit.pipelines.pending import PendingPictures
    from tokenring_xdit.pipelines.picture_engine import Pictures

__all__ = ["Engine", "Step"]


class Engine(RankedEngine):
    """A model on several ranks of this machine, or of a Ray cluster: loaded once, it serves one request after another.

    ::

        import tokenring_xdit

        with tokenring_xdit.Engine("black-forest-labs/FLUX.1-dev", tokenring_degree=4) as engine:
            first, second = engine.generate(["a photo of a fox", "a photo of a hare"], steps=28, seed=1)
            first.save("fox.png")

        with tokenring_xdit.Engine("Qwen/Qwen2.5-7B-Instruct", tokenring_degree=4) as engine:
            chat = engine.chat(context=book)
            for piece in chat.ask("Who did it?", stream=True):
                print(piece, end="")

    Works in notebooks and in scripts without a ``__main__`` guard. A request that fails, or is cancelled, raises one
    readable error and the next one is served. The ranks keep their model if all of them stopped at the same point;
    if one died, hung, or failed in the middle of a step (out of memory, for example), they are started again,
    as messages may be left between them. They end when the engine is closed or garbage-collected, and when its process
    ends, however that happens.

    While the main thread waits for a request, Ctrl-C (a notebook's *interrupt* too) cancels it at the next
    step, or token, and raises ``KeyboardInterrupt``; a second one does not wait, and the model is loaded again.

    Args:
        model: Folder or hub name of a diffusers pipeline, or of a causal language model of transformers, which its
            ``config.json`` tells; ``embedded`` is the small Flux of this package, ``random-flux:...`` one with random
            weights, ``smollm2`` a small language model.
        tokenring_degree: Ranks that TokenRing shards the sequence over.
        ulysses_degree: For pipelines: ranks that Ulysses shards the heads over.
        schedule: For pipelines: what the TokenRing ranks exchange and when.
        attention_backend: For pipelines: xfuser's kernel for attention on one rank; a single rank uses diffusers' own.
        data_parallel_degree: For pipelines: replicas of these ranks; they share the prompts of a list.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default ``bfloat16`` on GPUs, ``float32`` without.
        timeout: Seconds without progress of the ranks, while loading or between steps (tokens; reading a
            prompt is one step), after which they are killed. A rank that dies is noticed at once, one that is stopped
            after ``TOKENRING_LIVENESS_LIMIT`` seconds (30).
        largest_side: For pipelines: most pixels of width and height, against typing errors.
        tokens_per_rank: For language models: tokens whose keys a rank may hold, of all chats together; ``None`` for any
            number. The least recently used chats are dropped; a chat that does not fit alone is refused.
        kept_chats: For language models: number of chats whose keys are kept; others are computed again at their next
            question.
        task: For pipelines: ``text-to-image``, ``image-to-image``, ``inpainting``, ``text-to-video``,
            ``image-to-video`` or ``video-to-video``, for which diffusers' AutoPipeline chooses the class; by
            default it is the class that the model names.
        controlnet: For pipelines: folder or hub name of a ControlNet, whose pictures are ``control_image`` of requests.
        scheduler: For pipelines: scheduler class of diffusers, instead of the model's own.
        loras: For pipelines: files, folders or hub names of LoRAs, or pairs of one and its scale.
        cuda_graphs: For pipelines: capture calls of the transformer as CUDA graphs, and replay them (``docs/gpu.md``).
        ray: ``auto``, or ``HOST:PORT`` of the head of a Ray cluster that this machine is in: ranks are started on its
            nodes (``docs/serving.md``), in a placement group of their own, or in the last bundles of one that is given
            here. By default they are on this machine, without Ray.
        start: Start the ranks at once; otherwise :meth:`start` or the first request does, and :meth:`close` may end
            them, from another thread, while they load.

    Raises:
        ConfigurationError: There is no such model, a degree cannot work, or there are fewer GPUs than ranks.
        UnsupportedError: The model was not compared with the single process, or does not take the degrees.
        EngineError: A rank failed while it loaded; the message names its log.
    """

    def __init__(
        self,
        model: str,
        *,
        tokenring_degree: int = 1,
        ulysses_degree: int = 1,
        schedule: str = DEFAULT_SCHEDULE,
        attention_backend: str | AttentionBackend = "auto",
        data_parallel_degree: int = 1,
        dtype: str | None = None,
        timeout: float = 1800.0,
        largest_side: int = LARGEST_SIDE,
        tokens_per_rank: int | None = None,
        kept_chats: int = KEPT_CHATS,
        cuda_graphs: bool = False,
        task: str | None = None,
        controlnet: str | None = None,
        scheduler: str | None = None,
        loras: Sequence[str | tuple[str, float] | Lora] = (),
        ray: Any = None,
        start: bool = True,
    ) -> None:
        if not isinstance(model, str):
            raise ConfigurationError(f"model is {model!r}; it has to be the folder or hub name of a model")
        self._pictures: Pictures | None = None
        self._texts: Texts | None = None
        if is_text_model(model):
            _refuse(
                "pipelines of pictures",
                f"'{model}' is a language model",
                ulysses_degree=(ulysses_degree, 1),
                schedule=(schedule, DEFAULT_SCHEDULE),
                attention_backend=(attention_backend, "auto"),
                data_parallel_degree=(data_parallel_degree, 1),
                largest_side=(largest_side, LARGEST_SIDE),
                cuda_graphs=(cuda_graphs, False),
                task=(task, None),
                controlnet=(controlnet, None),
                scheduler=(scheduler, None),
                loras=(loras, ()),
            )
            self._texts = Texts(
                model,
                dims=ParallelDims(tokenring=tokenring_degree),
                dtype=dtype,
                timeout=timeout,
                tokens_per_rank=tokens_per_rank,
                kept_chats=kept_chats,
                ray=ray,
            )
        else:
            _refuse(
                "language models",
                f"'{model}' makes pictures",
                tokens_per_rank=(tokens_per_rank, None),
                kept_chats=(kept_chats, KEPT_CHATS),
            )
            from tokenring_xdit.pipelines.picture_engine import Pictures

            self._pictures = Pictures(
                model,
                dims=ParallelDims(ulysses=ulysses_degree, tokenring=tokenring_degree, schedule=schedule),
                attention_backend=attention_backend,
                data_parallel_degree=data_parallel_degree,
                dtype=dtype,
                timeout=timeout,
                largest_side=largest_side,
                cuda_graphs=cuda_graphs,
                choice=PipelineChoice(task, scheduler, Lora.parse_all(loras), controlnet),
                ray=ray,
            )
        self._model = model
        if start:
            try:
                self.start()
            except BaseException:
                self.close()
                raise

    @property
    def graph_reports(self) -> tuple[Mapping[str, GraphReport], ...]:
        """How many calls of the transformers were replayed, captured or eager until the end of the last request.

        One for each replica that took part; empty without ``cuda_graphs``.
        """
        return () if self._pictures is None else self._pictures.graph_reports

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        guidance: float | None = None,
        callback: Callable[[Step], object] | None = None,
        preview: bool | Collection[int] = False,
        progress: bool = True,
        **options: Any,
    ) -> list[Any]:
        """Make pictures or videos; the pipeline has a default for each ``None``.

        The prompts of a list are one batch, or are divided among replicas. Each picture has its own
        seed, the first one ``seed`` and the next ones the numbers that follow, so it is the same however it is made.

        Args:
            prompt: One prompt, or a list.
            negative_prompt: What to guide away from: one for all, or one for each prompt.
            width: Width in pixels.
            height: Height in pixels.
            frames: Frames of a video.
            steps: Denoising steps.
            seed: Seed of the first picture; without one a random seed is used, which is :attr:`last_seed`.
            guidance: Guidance scale.
            callback: Called in this thread after each step; what it raises cancels the request and is raised here.
            preview: Give the callback a preview after each step, or after the steps of these numbers; every
                preview costs one decoding.
            progress: Show a progress bar.
            **options: Further arguments of the diffusers pipeline's call, such as ``image``, ``mask_image``,
                ``control_image`` (PIL pictures, or a list of them), ``video`` (a list of PIL frames) and ``strength``.
                ``prompt_embeds`` replace a prompt, which is ``""`` then.

        Returns:
            A PIL picture for each prompt, or a list of PIL frames for each, without sound; ``output_type="latent"``,
            ``"np"`` or ``"pt"`` gives the pipeline's output of that type instead.

        Raises:
            TokenRingError: The request was refused; the message says what the pipeline takes.
            CancelledError: :meth:`cancel` was called.
            EngineError: A rank failed; the message names it, its error and its log.
            KeyboardInterrupt: It was interrupted.
        """
        request = self.check(
            prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            frames=frames,
            steps=steps,
            seed=secrets.randbelow(DRAWN_SEEDS) if seed is None else seed,
            guidance=guidance,
            **options,
        )
        return self._drawing().make(request, callback, preview, progress)

    def submit(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | None = None,
        preview: bool | Collection[int] = False,
        **arguments: Any,
    ) -> PendingPictures:
        """Start :meth:`generate` and return at once.

        Requests are served one after the other. The returned object can cancel this request, iterate over its
        ``steps()``, estimate ``seconds_left``, and wait for the ``result()``.

        Args:
            prompt: One prompt, or a list.
            seed: Seed of the first picture; without one a random seed is used.
            preview: Add a preview to each step.
            **arguments: The others of :meth:`generate`, except ``callback`` and ``progress``.

        Raises:
            TokenRingError: The request was refused; the message says what the pipeline takes.
        """
        request = self.check(prompt, seed=secrets.randbelow(DRAWN_SEEDS) if seed is None else seed, **arguments)
        return self._drawing().submit(request, preview)

    def check(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        guidance: float | None = None,
        **options: Any,
    ) -> Request:
        """Check arguments of :meth:`generate`, from any thread, and refuse what it would refuse.

        Returns:
            The request, with the defaults of the model.

        Raises:
            TokenRingError: The request is refused; the message says what the pipeline takes.
        """
        pictures = self._drawing()
        return pictures.check(
            Request(
                prompt=_frozen(prompt),
                negative_prompt=_frozen(negative_prompt),
                width=width,
                height=height,
                frames=frames,
                steps=steps,
                seed=seed,
                guidance=guidance,
                options=options,
                largest_side=pictures.largest_side,
            )
        )

    def chat(self, *, context: str = "", messages: Sequence[Mapping[str, str]] = ()) -> Chat:
        """Begin a conversation with a language model.

        Several may be open; their questions are answered one after the other, and each has its own keys.

        Args:
            context: A text of any length that it is about; it is read with the first question.
            messages: Earlier messages, as mappings with ``role`` (``system``, ``user`` or ``assistant``) and
                ``content``.

        Raises:
            ConfigurationError: The model makes pictures, or these are no texts.
        """
        if self._texts is None:
            raise ConfigurationError(
                f"chat is for language models, and '{self._model}' makes pictures: use generate(...)"
            )
        return self._texts.chat(context, messages)

    def _drawing(self) -> Pictures:
        if self._pictures is None:
            raise ConfigurationError(
                f"generate makes pictures, and '{self._model}' is a language model: use chat(context=...).ask(...)"
            )
        return self._pictures

    @property
    def _serving(self) -> Pictures | Texts:
        serving = self._texts if self._pictures is None else self._pictures
        assert serving is not None
        return serving


def _refuse(whose: str, instead: str, **arguments: tuple[Any, Any]) -> None:
    """Refuse arguments that are for another kind of model, where they differ from what is taken without them."""
    for name, (value, default) in arguments.items():
        if value != default:
            raise ConfigurationError(f"{name}={value!r} is for {whose}, and {instead}: leave it out")


def _frozen(prompts: Any) -> Any:
    return tuple(prompts) if isinstance(prompts, list) else prompts
