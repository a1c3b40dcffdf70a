"""Ways in which people use a language model; each has to give what the unmodified model gives in one process."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.ao.quantization import quantize_dynamic
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StaticCache,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkingConfig,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

import tokenring_xdit
from tests.hosts.transformers.jobs import error_of, parallel_model
from tests.hosts.transformers.models import language_model, prompts
from tokenring_xdit.compat.transformers import CACHE_NAMES, cache_name
from tokenring_xdit.errors import TokenRingError

Use = Callable[[Any], Any]

PADDED = prompts(2, 43, [0, 17])
ALONE = prompts(1, 37)
BARELY = prompts(3, 41, [0, 7, 40])
"""Of the last item one token is real."""

OPTIONS: dict[str, dict[str, Any]] = {
    "top_p": {"do_sample": True, "top_p": 0.8, "temperature": 1.3},
    "min_p": {"do_sample": True, "min_p": 0.05, "top_k": 0},
    "typical": {"do_sample": True, "typical_p": 0.7},
    "cut off": {"do_sample": True, "epsilon_cutoff": 3e-3, "eta_cutoff": 3e-3},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.1},
    "bad words": {"bad_words_ids": [[5], [7, 8]], "suppress_tokens": [11], "begin_suppress_tokens": [12]},
    "bias": {"sequence_bias": [[[3], 4.0], [[4, 5], -9.0]], "renormalize_logits": True},
    "lengths": {"min_new_tokens": 6, "eos_token_id": [*range(3, 40)], "exponential_decay_length_penalty": (2, 1.1)},
    "forced end": {"forced_eos_token_id": 2, "eos_token_id": 2},
    "guidance": {"guidance_scale": 1.7},
    "negative prompt": {
        "guidance_scale": 1.6,
        "negative_prompt_ids": PADDED[0][:, :29],
        "negative_prompt_attention_mask": PADDED[1][:, :29],
    },
    "watermark": {"watermarking_config": WatermarkingConfig(bias=2.0, seeding_scheme="selfhash")},
    "several": {"do_sample": True, "num_return_sequences": 3, "top_k": 9},
    "beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.3, "early_stopping": True},
    "drawn beams": {"num_beams": 2, "do_sample": True, "eos_token_id": [*range(3, 9)]},
    "no time": {"max_time": 0.0},
    "chunks": {"prefill_chunk_size": 16},
}
"""Options of ``generate``, on a padded batch."""


def _cache_of(output: Any) -> Any:
    return next(value for key, value in output.items() if key in CACHE_NAMES)


def _new_cache(model: Any) -> dict[str, Any]:
    """A cache of its own, where the model has one to give; else what ``use_cache`` makes."""
    return {cache_name(type(model).forward): model.tokenring.cache()} if hasattr(model, "tokenring") else {}


def _option(options: dict[str, Any]) -> Use:
    def use(model: Any) -> Any:
        return model.generate(PADDED[0], attention_mask=PADDED[1], **{"max_new_tokens": 9, **options})

    return use


def words() -> Any:
    """A tokenizer whose tokens are characters."""
    letters = ["<pad>", "<s>", "</s>", "\u0120", *map(chr, range(ord("!"), ord("!") + 93))]
    backend = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **named)


def _text(ids: torch.Tensor) -> str:
    return str(words().decode(ids, clean_up_tokenization_spaces=False))


def _own(model: Any, first: Any, others: Any) -> Any:
    """What the first rank, or one process, passes, where others may pass something else."""
    return others if hasattr(model, "tokenring") and dist.get_rank() else first


def allowed(model: Any) -> Any:
    """Tokens that a function allows."""
    return model.generate(
        ALONE[0],
        max_new_tokens=8,
        prefix_allowed_tokens_fn=_own(model, lambda _, tokens: [int(tokens[-1]) // 2 + 3, 50], lambda *_: [4]),
    )


class Later(LogitsProcessor):  # type: ignore[misc]
    """Moves all scores by a few tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores."""
        return scores.roll(3, dims=-1)


def processed(model: Any) -> Any:
    """A processor of the user's, and a configuration as an object."""
    config = GenerationConfig(max_new_tokens=8, do_sample=True, top_k=7, pad_token_id=0)
    return model.generate(ALONE[0], generation_config=config, logits_processor=LogitsProcessorList([Later()]))


def returned(model: Any) -> Any:
    """Scores and logits beside tokens, of drawn beams and of a drawn answer."""
    found = []
    for more in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        options = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True, **more}
        output = model.generate(PADDED[0], attention_mask=PADDED[1], max_new_tokens=5, **options)
        scores = [part.clamp(min=-1e4) for part in (*output.scores, *output.logits)]
        found += [output.sequences, *scores, *([output.sequences_scores] if "num_beams" in more else [])]
    return found


def stopped(model: Any) -> Any:
    """Text at which an answer ends."""
    ids = ALONE[0]
    usual = model.generate(ids, max_new_tokens=9)[0, ids.shape[1] :]
    ends = [_text(usual[4:6])]
    return model.generate(ids, max_new_tokens=9, stop_strings=ends, tokenizer=words())


def piped(model: Any) -> Any:
    """``pipeline``, with several texts at once."""
    pipe = pipeline("text-generation", model=model, tokenizer=words())
    texts = [_text(ALONE[0][0]), _text(ALONE[0][0, 9:])]
    found = pipe(texts, max_new_tokens=6, batch_size=2, do_sample=False, return_full_text=False)
    return [each[0]["generated_text"] for each in found]


def printed(model: Any) -> Any:
    """What a streamer prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        model.generate(ALONE[0], max_new_tokens=6, streamer=TextStreamer(words(), skip_prompt=True))
    return out.getvalue()


def threaded(model: Any) -> Any:
    """Pieces from a thread; the next answer is asked for before it has ended."""
    found = []
    threads = []
    for turn in range(3):
        streamer = TextIteratorStreamer(words(), skip_prompt=True, timeout=120)
        call = {"max_new_tokens": 6, "streamer": streamer, "inputs": ALONE[0][:, turn:]}
        threads.append(threading.Thread(target=model.generate, kwargs=call))
        threads[-1].start()
        found.append("".join(streamer))
        found.append(model(ALONE[0]).logits)
    for thread in threads:
        thread.join()
    return found


def custom(model: Any) -> Any:
    """A decoding loop of the user's."""

    def loop(model: Any, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        for _step in range(4):
            input_ids = torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    return model.generate(ALONE[0], custom_generate=loop, max_new_tokens=4)


def calls(model: Any) -> Any:
    """Calls of the model with arguments in many forms; padding wherever."""
    ids, ones = PADDED[0], torch.ones_like(PADDED[0])
    right, middle = ones.clone(), ones.clone()
    right[0, 30:] = 0
    middle[1, 10:25] = 0
    found = [model(ids, attention_mask=PADDED[1].bool()).logits[PADDED[1] == 1]]
    found += [model(input_ids=ids.int(), attention_mask=mask).logits[mask == 1] for mask in (right, middle)]
    found.append(model(ids, attention_mask=middle.float()).logits[middle == 1])
    found.append(model(ids, attention_mask=ones, position_ids=torch.arange(5, 48)[None]).logits)
    found.append(model(ids, logits_to_keep=torch.tensor([0, 41, 7])).logits)
    found.append(model(ids, return_dict=False)[0])
    found.append(model(ids, use_cache=False, logits_to_keep=5).logits)
    found.append(model.get_decoder()(ids).last_hidden_state)
    found.append(model.generate(ids[:1].int(), max_new_tokens=3))
    return found


def tuples(model: Any) -> Any:
    """A configuration that asks for tuples."""
    model.config.return_dict = False
    found = model(ALONE[0])[0], model.generate(ALONE[0], max_new_tokens=3)
    model.config.return_dict = True
    return found


def from_nothing(model: Any) -> Any:
    """An answer to no prompt, and in inference mode."""
    with torch.inference_mode():
        return model.generate(max_new_tokens=7), model.generate(ALONE[0][:, :2], max_new_tokens=3)


def branches(model: Any) -> Any:
    """One prompt, from whose cache two answers go on."""
    name = cache_name(type(model).forward)
    first = model(ALONE[0], **_new_cache(model), use_cache=True)
    found = []
    for number in (5, 9):
        cache = copy.deepcopy(_cache_of(first))
        more = torch.cat([ALONE[0], torch.full((1, 3), number)], dim=1)
        found += [model.generate(more, max_new_tokens=6, **{name: cache}), cache.get_seq_length()]
    return [*found, _cache_of(first).get_seq_length()]


def goes_on(model: Any) -> Any:
    """The cache that ``generate`` returns goes into the next call."""
    name, options = cache_name(type(model).forward), {"max_new_tokens": 5, "return_dict_in_generate": True}
    first = model.generate(PADDED[0], attention_mask=PADDED[1], **options)
    more = torch.cat([first.sequences, PADDED[0][:, :4]], dim=1)
    mask = torch.cat([PADDED[1], torch.ones(2, more.shape[1] - PADDED[1].shape[1], dtype=torch.long)], dim=1)
    return model.generate(more, attention_mask=mask, max_new_tokens=5, **{name: _cache_of(first)})


def either_name(model: Any) -> Any:
    """Caches by all names that their argument has; beams and several answers behind one of them."""
    latest = cache_name(type(model).forward)
    found = []
    for name in CACHE_NAMES if latest == CACHE_NAMES[0] else [latest]:
        cache = model.tokenring.cache() if hasattr(model, "tokenring") else DynamicCache(config=model.config)
        said = model.generate(ALONE[0], max_new_tokens=3, **{name: cache})
        more = torch.cat([said, ALONE[0][:, :4]], dim=1)
        found += [model.generate(more, max_new_tokens=3, **{name: cache}), cache.get_seq_length()]
    for options in ({"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}):
        found.append(model.generate(ALONE[0], max_new_tokens=5, **options, **_new_cache(model)))
    return found


def barely_there(model: Any) -> Any:
    """A batch with an item that is nearly all padding."""
    options: tuple[dict[str, Any], ...] = ({}, {"num_beams": 2}, {"prefill_chunk_size": 9, "do_sample": True})
    return [model.generate(BARELY[0], attention_mask=BARELY[1], max_new_tokens=5, **each) for each in options]


def looked_up(model: Any) -> Any:
    """Tokens that were guessed from the prompt, with further options."""
    guessing = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1, "max_new_tokens": 12}
    options: tuple[dict[str, Any], ...] = ({"do_sample": True}, {"prefill_chunk_size": 8}, {"guidance_scale": 1.4})
    found = [model.generate(ALONE[0], **guessing, **each) for each in options]
    again = torch.cat([ALONE[0]] * 4, dim=1)  # guesses are longer than what windows keep beyond need
    guessing = {"prompt_lookup_num_tokens": 100, "max_matching_ngram_size": 1, "max_new_tokens": 110}
    return [*found, model.generate(again, **guessing)]


def in_training_mode(model: Any) -> Any:
    """A model that nobody has called ``eval`` of, as those that were made from a configuration are."""
    model.train()
    found = model.generate(ALONE[0], max_new_tokens=4)
    model.eval()
    return found


def resized(model: Any) -> Any:
    """A vocabulary that grows, and weights that are changed."""
    torch.manual_seed(3)
    model.resize_token_embeddings(101, mean_resizing=False)
    model.model.layers[0].self_attn.o_proj.weight.data *= 1.5
    return model(ALONE[0] + 3).logits


def saved(model: Any) -> Any:
    """A model that is written and read again."""
    if dist.get_rank():  # transformers writes on the first rank only
        return None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder)
        return again(ALONE[0]).logits, again.config._attn_implementation


def compiled(model: Any) -> Any:
    """A model that was compiled, in whole and in parts."""
    parallel = hasattr(model, "tokenring")
    whole = torch.compile(model, backend="eager") if parallel else model
    found = [whole(ALONE[0]).logits, whole.generate(ALONE[0], max_new_tokens=3)]
    for layer in model.model.layers if parallel else ():
        layer.compile(backend="eager")
    return [*found, model(PADDED[0], attention_mask=PADDED[1]).logits[PADDED[1] == 1]]


def of_two(model: Any) -> Any:
    """A second model in the same process, in turns."""
    second = language_model("gemma2")
    if hasattr(model, "tokenring"):
        second = tokenring_xdit.parallelize(second, tokenring_degree=dist.get_world_size())
    found = []
    for each in (model, second, model, second):
        found += [each(ALONE[0]).logits, each.generate(ALONE[0], max_new_tokens=4)]
    return found


USES: dict[str, Use] = {
    **{name: _option(options) for name, options in OPTIONS.items()},
    **{
        use.__name__: use
        for use in (
            allowed,
            processed,
            returned,
            stopped,
            piped,
            printed,
            threaded,
            custom,
            calls,
            from_nothing,
            either_name,
            barely_there,
            looked_up,
        )
    },
    **{use.__name__: use for use in (branches, goes_on, in_training_mode, of_two, saved, compiled, resized)},
}
"""By name; the last change the model."""


def difference(found: Any, wanted: Any) -> str:
    """How two results differ, in words; nothing where they do not."""
    if isinstance(wanted, (list, tuple)):
        parts = [difference(*pair) for pair in zip(found, wanted, strict=True)]
        return "; ".join(f"{at}: {part}" for at, part in enumerate(parts) if part)
    if isinstance(wanted, torch.Tensor) and wanted.is_floating_point():
        same = found.shape == wanted.shape and error_of(found, wanted) <= 1e-5
        return "" if same else f"off by {error_of(found, wanted):.1g}"
    same = torch.equal(found, wanted) if isinstance(wanted, torch.Tensor) else found == wanted
    return "" if same else f"{found} instead of {wanted}"


@torch.no_grad()
def uses(kind: str, names: list[str] | None = None) -> dict[str, str]:
    """What differs from one process with the first rank's seed, by use."""
    found = {}
    whole, parallel = language_model(kind), parallel_model(kind)
    for name in names or USES:
        try:
            torch.manual_seed(5)
            wanted = USES[name](whole)
            torch.manual_seed(5 + 100 * dist.get_rank())
            said = difference(USES[name](parallel), wanted)
        except (TokenRingError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            said = f"{type(error).__name__}: {error}"
        if said:
            found[name] = said
    return found


class _Calls(BaseStreamer):
    """A streamer that calls something, once."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call

    def put(self, value: torch.Tensor) -> None:
        """Call it."""
        call, self._call = self._call, None
        if call is not None:
            call()

    def end(self) -> None:
        """Nothing."""


@torch.no_grad()
def refusals() -> tuple[dict[str, str], bool]:
    """What is said to uses that would wait for ever or compute wrongly, and whether the model is right afterwards."""
    whole, model, second = language_model("llama"), parallel_model("llama"), parallel_model("qwen3")
    name, ids = cache_name(type(whole).forward), ALONE[0]
    said: dict[str, str] = {}

    def note(what: str, call: Callable[[], Any]) -> None:
        try:
            call()
            said[what] = "nothing"
        except (TokenRingError, ValueError) as error:
            said[what] = f"{type(error).__name__}: {error}"

    def inside(call: Callable[[], Any]) -> Callable[[], Any]:
        def criterion(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            call()
            return torch.zeros(tokens.shape[0], dtype=torch.bool)

        criteria = StoppingCriteriaList([criterion])
        return lambda: model.generate(ids, max_new_tokens=3, stopping_criteria=criteria)

    note("second inside", inside(lambda: second(ids)))
    note("second generates inside", inside(lambda: second.generate(ids, max_new_tokens=1)))
    note("generate inside", inside(lambda: model.generate(ids, max_new_tokens=1)))
    note("score inside", inside(lambda: model.tokenring.score(ids)))
    note("logits inside", inside(lambda: model.tokenring.logits(ids)))
    note("use inside", inside(lambda: model.tokenring.use("keys")))
    note("streamer", lambda: model.generate(ids, max_new_tokens=3, streamer=_Calls(lambda: second(ids))))
    note("paged", lambda: model.generate(ids, max_new_tokens=3, cache_implementation="paged"))
    note("quantized", lambda: model.generate(ids, max_new_tokens=3, cache_implementation="quantized"))
    note("batching", lambda: model.generate_batch([[3, 4]]))
    note("static cache", lambda: model.generate(ids, **{name: StaticCache(config=model.config, max_cache_len=64)}))
    note("word for a cache", lambda: model.generate(ids, **{name: "static"}))
    model.generation_config.cache_implementation = "offloaded"
    note("standing offloaded", lambda: model.generate(ids, max_new_tokens=3))
    model.generation_config.cache_implementation = None
    note("list", lambda: model.generate(ids.tolist(), max_new_tokens=3))
    note("no token", lambda: model.generate(ids[:, :0], max_new_tokens=3))
    note("nothing but padding", lambda: model.generate(ids, attention_mask=torch.zeros_like(ids), max_new_tokens=3))
    windows = parallel_model("gemma2")  # of 7
    behind = torch.cat([torch.ones_like(ids[:, 7:]), torch.zeros_like(ids[:, :7])], dim=1)
    note("padding behind", lambda: windows.generate(ids, attention_mask=behind, max_new_tokens=3))
    note("embeddings", lambda: model.generate(inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=3))
    note("mask of other tokens", lambda: model.generate(ids, attention_mask=torch.ones(1, 30), max_new_tokens=3))
    note("score of a list", lambda: model.tokenring.score(ids.tolist()))
    note("score of a row", lambda: model.tokenring.score(ids[0]))
    note("strategy", lambda: model.tokenring.use("key"))
    note("no strategy", lambda: parallel_model("llama", prefill=None))
    note("tokenizer", lambda: _parallelized(words()))
    note("pipeline", lambda: _parallelized(pipeline("text-generation", model=whole, tokenizer=words())))
    note("wrapped", lambda: _parallelized(torch.nn.DataParallel(whole)))
    note("None", lambda: _parallelized(None))
    note("hidden states", lambda: model.generate(ids, max_new_tokens=3, output_hidden_states=True))
    note("contrastive", lambda: model.generate(ids, max_new_tokens=3, penalty_alpha=0.5, top_k=4))
    note("constraints", lambda: model.generate(ids, max_new_tokens=3, num_beams=2, force_words_ids=[[5]]))
    note("groups", lambda: model.generate(ids, max_new_tokens=3, num_beams=4, num_beam_groups=2))
    note("custom", lambda: model.generate(ids, custom_generate=lambda model, input_ids, **_: "text"))
    note("unknown token", lambda: model(ids + 80))
    note("flat", lambda: model(ids[0]))
    cache = model.tokenring.cache()
    model(ids, **{name: cache})
    note("batch of a cache", lambda: model(torch.cat([ids, ids]), **{name: cache}))
    cache = model.tokenring.cache()
    model(PADDED[0], **{name: cache})
    cache.batch_select_indices(torch.tensor([0, 1]).roll(dist.get_rank()))
    note("other order", lambda: model(PADDED[0], **{name: cache}))
    note("other order, generate", lambda: model.generate(torch.cat([PADDED[0]] * 2, 1), **{name: cache}))
    note("copy", lambda: copy.deepcopy(model))
    note("pickle", lambda: pickle.dumps(model))
    note("pickled cache", lambda: pickle.dumps(cache))
    note("fewer positions", lambda: model(ids, position_ids=torch.arange(30)[None]))
    note("positions of others", lambda: model(ids, position_ids=torch.arange(37).expand(2, -1)))
    note("no item", lambda: model(ids[:0]))
    note("no numbers", lambda: model(ids.float()))
    model.set_attn_implementation("sdpa")
    note("attention", lambda: model.generate(ids, max_new_tokens=3))
    note("attention, call", lambda: model(ids))
    model.set_attn_implementation("tokenring")
    with torch.autocast("cpu", torch.bfloat16):
        note("autocast", lambda: model.generate(ids, max_new_tokens=3))
        note("autocast, call", lambda: model(ids))
    with torch.autocast("cpu", torch.bfloat16, enabled=dist.get_rank() > 0):
        note("autocast, one", lambda: model.generate(ids, max_new_tokens=3))
    model.train()
    model.gradient_checkpointing_enable()
    note("checkpointing", lambda: model.generate(ids, max_new_tokens=3))
    model.gradient_checkpointing_disable()
    model.eval()
    _changed(parallel_model("qwen3"), note)
    note("compiled", lambda: _parallelized(torch.compile(language_model("llama"), backend="eager")))
    note("layout", lambda: parallel_model("llama", layout="zigzag"))
    note("decode", lambda: parallel_model("llama", decode="gather"))
    note("double", lambda: _parallelized(language_model("llama").double()))
    note("dynamic", lambda: _parallelized(quantize_dynamic(language_model("llama"), {torch.nn.Linear})))
    note("quantised", lambda: _parallelized(_with_fp8(language_model("llama"))))
    same = torch.equal(model.generate(ids, max_new_tokens=4), whole.generate(ids, max_new_tokens=4))
    return said, same


def _with_fp8(model: Any) -> Any:
    """A model one of whose layers is named as those that quantise activations."""
    layer = model.model.layers[1].mlp
    layer.up_proj.__class__ = type("FP8Linear", (torch.nn.Linear,), {})
    return model


def _changed(model: Any, note: Callable[[str, Callable[[], Any]], None]) -> None:
    """What is said to calls of a model that was changed after it was spread."""
    ids, name = ALONE[0], cache_name(type(model).forward)
    layer = model.model.layers[1]
    hook = layer.register_forward_hook(lambda *_: None)
    note("hook", lambda: model(ids))
    note("hook, generate", lambda: model.generate(ids, max_new_tokens=2))
    hook.remove()
    layer.self_attn.forward = layer.self_attn.forward
    note("replaced", lambda: model(ids))
    del layer.self_attn.forward
    if dist.get_rank() == 1:
        model.config._attn_implementation = "sdpa"
    note("attention, one", lambda: model.generate(ids, max_new_tokens=2))
    model.config._attn_implementation = "tokenring"
    cache = model.tokenring.cache()
    first = model.generate(ids, max_new_tokens=2, **{name: cache})
    model.half()
    note("cast between turns", lambda: model(ids, **{name: cache}))
    note("cast between turns, generate", lambda: model.generate(torch.cat([first, ids], 1), **{name: cache}))
    model.double()
    note("double afterwards", lambda: model(ids))
    model.float().to("meta")
    note("moved", lambda: model(ids))
    note("moved, generate", lambda: model.generate(ids, max_new_tokens=2))


def _parallelized(model: Any) -> Any:
    return tokenring_xdit.parallelize(model, tokenring_degree=dist.get_world_size())


@torch.no_grad()
def with_adapters() -> dict[str, str]:
    """What differs from one process where peft's adapters are around a model, before it is spread and afterwards."""
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")

    def adapted(model: Any) -> Any:
        torch.manual_seed(9)
        return get_peft_model(model, lora).eval()

    def used(model: Any) -> Any:
        found = [model(ALONE[0]).logits, model.generate(input_ids=ALONE[0], max_new_tokens=5)]
        found.append(model.generate(input_ids=PADDED[0], attention_mask=PADDED[1], max_new_tokens=4, num_beams=2))
        with model.disable_adapter():
            found.append(model(ALONE[0]).logits)
        return [*found, model(ALONE[0]).logits]

    wanted = used(adapted(language_model("llama")))
    found = {
        "before": difference(used(_parallelized(adapted(language_model("llama")))), wanted),
        "after": difference(used(adapted(parallel_model("llama"))), wanted),
    }
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    try:
        _parallelized(get_peft_model(language_model("llama"), prompt))
    except TokenRingError as error:
        found["prompt"] = str(error)
    return found


@torch.no_grad()
def loaded(folder: str) -> dict[str, str]:
    """What differs from one process, by how a model was loaded."""
    whole = AutoModelForCausalLM.from_pretrained(folder)
    wanted = whole(ALONE[0]).logits, whole.generate(ALONE[0], max_new_tokens=4)
    found = {}
    for name, options in LOADED.items():
        try:
            model = _parallelized(AutoModelForCausalLM.from_pretrained(folder, **options))
            said = difference((model(ALONE[0]).logits, model.generate(ALONE[0], max_new_tokens=4)), wanted)
        except (TokenRingError, ValueError, RuntimeError) as error:
            said = f"{type(error).__name__}: {error}"
        if said:
            found[name] = said
    return found


LOADED: dict[str, dict[str, Any]] = {
    "eager": {"attn_implementation": "eager"},
    "sdpa": {"attn_implementation": "sdpa"},
    "flex": {"attn_implementation": "flex_attention"},
    "one device": {"device_map": "cpu"},
    "whole on a device": {"device_map": {"": "cpu"}},
    "automatic": {"device_map": "auto"},
    "in parallel": {"tp_plan": "auto"},
}
"""Arguments of ``from_pretrained``."""


def save_small_model(folder: Path) -> None:
    """Write a model with tied weights."""
    model = language_model("qwen3", tie_word_embeddings=True)
    model.tie_weights()
    model.save_pretrained(folder)
