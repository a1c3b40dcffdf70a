"""``Engine`` with a language model on real ranks, against the unmodified model in one process."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.language import small_model_folder
from tokenring_xdit import Chat, Engine, PendingReply, Reply
from tokenring_xdit.errors import CancelledError, ConfigurationError, EngineError, TokenRingError, UnsupportedError
from tokenring_xdit.planning.placement import BLOCK

BOOK = "It was a dark and stormy night; the rain fell in torrents. " * 4
QUESTIONS = ["Who did it?", "Why?", "And then?"]
ANSWER = 12
FAR = 2000
"""Tokens: longer than any of these tests."""


class Reference:
    """The same model in this process, as transformers has it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def next(self, messages: list[dict[str, str]], **options: Any) -> tuple[int, list[int], str]:
        """How many tokens a conversation has, those that come next, and these as text."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        options = {"max_new_tokens": ANSWER, "do_sample": False, **options}
        said = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
        return ids.shape[1], said, self.tokenizer.decode(said, skip_special_tokens=True)


@pytest.fixture(scope="module", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Logs that errors name go where pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small"
    small_model_folder(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """One engine of two ranks, for questions good and bad."""
    with Engine(str(folder), tokenring_degree=2) as engine:
        yield engine


def asked(chat: Chat, question: str, reference: Reference, **options: Any) -> None:
    """Ask a question, and compare; a chat with a context has the book, or its beginning."""
    text = question if len(chat._said) > chat._given or not chat._context else f"{chat._context}\n\n{question}"
    wanted = [*chat.messages, {"role": "user", "content": text}]
    prompt, tokens, text = reference.next(wanted)
    assert chat.ask(question, max_new_tokens=ANSWER, **options) == text
    assert chat.reply is not None
    assert list(chat.reply.tokens) == tokens
    assert chat.reply.prompt_tokens == prompt
    assert chat.messages == [*wanted, {"role": "assistant", "content": text}]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def in_the_middle(chat: Chat, do: Callable[[], object]) -> BaseException:
    """What a long answer raises when something happens after its second piece."""
    pieces = chat.ask("Go on.", stream=True, max_new_tokens=FAR)
    next(pieces)
    next(pieces)
    do()
    with pytest.raises((TokenRingError, KeyboardInterrupt)) as raised:
        for _ in pieces:
            pass
    return raised.value


def finished(pending: PendingReply) -> Reply | BaseException:
    """How an answer ended."""
    try:
        return pending.result(timeout=300)
    except TokenRingError as error:
        return error


@pytest.mark.e2e
def test_three_turns_equal_one_process_and_compute_their_own_tokens_only(engine: Engine, reference: Reference) -> None:
    with engine.chat(context=BOOK) as chat:
        known = 0
        for question in QUESTIONS:
            asked(chat, question, reference)
            assert chat.reply is not None
            assert chat.reply.reused_tokens >= known
            known = chat.reply.prompt_tokens
            assert max(chat.reply.keys) <= (known + ANSWER) / 2 + BLOCK
            assert sum(chat.reply.keys) == chat.cached_tokens >= known
            assert not chat.reply.ended


@pytest.mark.e2e
def test_an_answer_ends_before_a_stop_and_the_next_turn_goes_on_from_there(
    engine: Engine, reference: Reference
) -> None:
    with engine.chat(context=BOOK) as chat:
        question = {"role": "user", "content": f"{BOOK}\n\n{QUESTIONS[0]}"}
        whole = reference.next([question], max_new_tokens=40)[2]
        at = next(
            i for i in range(3, len(whole)) if whole.find(whole[i : i + 2]) == i and "\ufffd" not in whole[i:][:2]
        )
        pending = chat.submit(QUESTIONS[0], max_new_tokens=40, stop=["never said", whole[at : at + 2]])
        assert "".join(pending.pieces()) == pending.result().text == whole[:at]
        assert pending.result().ended
        assert len(pending.result().tokens) < 40
        asked(chat, QUESTIONS[1], reference)
        assert chat.reply is not None
        assert chat.reply.reused_tokens >= pending.result().prompt_tokens


@pytest.mark.e2e
def test_pieces_are_the_answer_and_come_before_its_end(engine: Engine, reference: Reference) -> None:
    with engine.chat(context=BOOK) as chat:
        pending = chat.submit(QUESTIONS[0], max_new_tokens=200)  # far more than pass unseen before the next line
        pieces = pending.pieces()
        first = next(pieces)
        assert not pending.done
        rest = list(pieces)
        assert len(rest) > 5
        assert first + "".join(rest) == pending.result().text == chat.messages[-1]["content"]
        assert pending.next_piece() is None  # and so for whoever asks again


@pytest.mark.e2e
def test_drawn_tokens_are_those_of_one_process_with_the_seed(engine: Engine, reference: Reference) -> None:
    options = {"temperature": 1.5, "top_p": 0.9, "repetition_penalty": 1.2}
    torch.manual_seed(7)
    _, tokens, text = reference.next([{"role": "user", "content": "Draw."}], do_sample=True, **options)
    with engine.chat() as chat:
        assert chat.ask("Draw.", seed=7, max_new_tokens=ANSWER, **options) == text
        assert chat.reply is not None and list(chat.reply.tokens) == tokens
    with engine.chat() as chat:
        drawn = chat.ask("Draw.", max_new_tokens=ANSWER, **options)
        seed = engine.last_seed
        assert chat.reply is not None and chat.reply.seed == seed
    with engine.chat() as chat:
        assert chat.ask("Draw.", max_new_tokens=ANSWER, seed=seed, **options) == drawn


@pytest.mark.e2e
def test_chats_side_by_side_have_keys_of_their_own(engine: Engine, reference: Reference) -> None:
    first, second = engine.chat(context=BOOK), engine.chat(messages=[{"role": "system", "content": "Be brief."}])
    for question in QUESTIONS[:2]:
        asked(first, question, reference)
        asked(second, question, reference)
        assert first.cached_tokens > second.cached_tokens > 0
    pending = [chat.submit("Both?", max_new_tokens=ANSWER) for chat in (first, second)]
    assert [each.result().text for each in pending] == [chat.messages[-1]["content"] for chat in (first, second)]
    kept = first.cached_tokens
    second.close()
    assert (first.cached_tokens, second.cached_tokens) == (kept, 0)
    numbers = [second.number]
    with pytest.raises(ConfigurationError, match="this chat was closed: begin another one"):
        second.ask("Still there?")
    third = engine.chat()
    third.ask("Who?", max_new_tokens=1)
    assert third.cached_tokens > 0
    numbers.append(third.number)
    del third  # frees its keys with the next question
    asked(first, QUESTIONS[2], reference)
    assert engine._texts is not None and [engine._texts.cached(number) for number in numbers] == [0, 0]
    first.close()


@pytest.mark.e2e
def test_chats_make_room_for_each_other(folder: Path, reference: Reference, caplog: pytest.LogCaptureFixture) -> None:
    longest = 2 * len(BOOK)  # tokens of one chat, at most, in all its turns
    with Engine(str(folder), tokenring_degree=2, tokens_per_rank=longest, kept_chats=2) as engine:
        chats = [engine.chat(context=BOOK[: len(BOOK) // 2]) for _ in range(3)]
        for chat in chats:
            chat.ask(QUESTIONS[0], max_new_tokens=ANSWER)
        assert [chat.cached_tokens > 0 for chat in chats] == [False, True, True]
        assert f"the keys of chat {chats[0].number}, " in caplog.text
        caplog.clear()
        asked(chats[0], QUESTIONS[1], reference)  # computed again, exactly
        assert chats[0].reply is not None and chats[0].reply.reused_tokens == 0
        assert [chat.cached_tokens > 0 for chat in chats] == [True, False, True]
        long = engine.chat(context=BOOK * 5)
        with pytest.raises(UnsupportedError, match=f"where {longest} are allowed: use more ranks than 2"):
            long.ask("Who?")
        assert chats[0].cached_tokens > 0
        long = engine.chat(context=BOOK * 3 + BOOK[:150])
        long.ask("Who?", max_new_tokens=1)
        assert [chat.cached_tokens > 0 for chat in (*chats, long)] == [False, False, False, True]  # by tokens
        assert long.messages[0]["content"].startswith(BOOK)


@pytest.mark.e2e
def test_cancelled_answers_leave_the_chat_where_it_was(engine: Engine, reference: Reference) -> None:
    before = engine.processes
    chat, other = engine.chat(context=BOOK), engine.chat()
    asked(chat, QUESTIONS[0], reference)
    for piece in chat.ask("Go on.", stream=True, max_new_tokens=FAR):  # dropped after a piece
        assert piece
        break
    asked(chat, QUESTIONS[1], reference)
    assert isinstance(in_the_middle(chat, engine.cancel), CancelledError)
    threads: list[threading.Thread] = []

    def start() -> None:
        threads.append(threading.Thread(target=engine.cancel))
        threads[0].start()

    assert isinstance(in_the_middle(chat, start), CancelledError)
    long = chat.submit("Go on.", max_new_tokens=FAR)
    with pytest.raises(ConfigurationError, match="this chat is answering a question"):
        chat.submit("And?")
    waiting = other.submit("Who?")
    with pytest.raises(TimeoutError, match="wait again, or cancel it"):
        waiting.result(timeout=0.01)
    waiting.cancel()  # before its turn
    assert isinstance(finished(waiting), CancelledError)
    assert not long.done
    other.close()
    long.cancel()
    assert isinstance(finished(long), CancelledError)
    asked(chat, QUESTIONS[2], reference)
    assert chat.reply is not None and chat.reply.reused_tokens > 0
    closing = chat.submit("Go on.", max_new_tokens=FAR)
    next(closing.pieces())
    chat.close()
    assert isinstance(finished(closing), CancelledError)
    assert chat.cached_tokens == 0
    assert engine.processes == before


@pytest.mark.e2e
def test_interrupts_give_an_answer_up(engine: Engine, reference: Reference) -> None:
    before = engine.processes
    chat = engine.chat(context=BOOK)

    def soon() -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert isinstance(in_the_middle(chat, soon), KeyboardInterrupt)
    asked(chat, QUESTIONS[0], reference)
    assert engine.processes == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ranks = [psutil.Process(each) for each in before]

    def twice() -> None:
        ranks[0].suspend()  # so that no token follows at which to give up
        for seconds in (0.2, 2.0):  # the first one was heard by then
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert isinstance(in_the_middle(chat, twice), KeyboardInterrupt)
    assert gone(ranks)
    asked(chat, QUESTIONS[1], reference)
    chat.close()


@pytest.mark.e2e
def test_a_rank_that_is_killed_is_named_and_its_chats_are_computed_again(engine: Engine, reference: Reference) -> None:
    chat, other = engine.chat(context=BOOK), engine.chat()
    asked(chat, QUESTIONS[0], reference)
    asked(other, QUESTIONS[0], reference)
    before = [psutil.Process(each) for each in engine.processes]
    error = in_the_middle(chat, before[1].kill)
    assert isinstance(error, EngineError)
    assert f"rank 1 was killed by SIGKILL, as Linux does when memory runs out (process {before[1].pid})" in str(error)
    assert gone(before)
    assert (chat.cached_tokens, other.cached_tokens) == (0, 0)
    for each in (chat, other):
        asked(each, QUESTIONS[1], reference)
        assert each.reply is not None and each.reply.reused_tokens == 0
        asked(each, QUESTIONS[2], reference)
        assert each.reply.reused_tokens > 0
    idle = [psutil.Process(each) for each in engine.processes]
    idle[0].kill()
    assert gone(idle[:1])
    asked(chat, "And now?", reference)
    chat.close(), other.close()


@pytest.mark.e2e
def test_closing_leaves_nothing_behind(folder: Path) -> None:
    engine = Engine(str(folder))
    ranks = [psutil.Process(each) for each in engine.processes]
    chat = engine.chat()
    closing = threading.Thread(target=engine.close)
    error = in_the_middle(chat, closing.start)
    closing.join()
    assert "this engine was closed while it served this request" in str(error)
    assert gone(ranks)
    with pytest.raises(ConfigurationError, match="this engine was closed: make a new one"):
        chat.ask("Who?")
    chat.close()
    chat = Engine(str(folder)).chat()  # which keeps its engine
    assert chat.ask("Who?", max_new_tokens=4) is not None
    ranks = [psutil.Process(each) for each in chat._texts.ranks.processes]
    del chat
    gc.collect()
    assert gone(ranks)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ulysses_degree": 2}, "ulysses_degree=2 is for pipelines of pictures, and "),
        ({"schedule": "ring"}, "schedule='ring' is for pipelines of pictures"),
        ({"attention_backend": "sdpa"}, "attention_backend='sdpa' is for pipelines of pictures"),
        ({"data_parallel_degree": 2}, "data_parallel_degree=2 is for pipelines of pictures"),
        ({"largest_side": 64}, "largest_side=64 is for pipelines of pictures"),
        (
            {"model": "embedded", "tokens_per_rank": 9},
            "tokens_per_rank=9 is for language models, and 'embedded' makes pictures",
        ),
        ({"model": "embedded", "kept_chats": 1}, "kept_chats=1 is for language models, and 'embedded' makes pictures"),
        ({"tokens_per_rank": 0}, "tokens_per_rank is 0; it has to be a whole number of at least 1"),
        ({"kept_chats": None}, "kept_chats is None; it has to be a whole number"),
        ({"timeout": 0}, "timeout is 0"),
        ({"tokenring_degree": 0}, "tokenring_degree is 0"),
        ({"dtype": "int8"}, "'int8' is not a dtype"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Engine(**{"model": str(tmp_path), **arguments})


def test_models_that_make_no_text_or_were_not_compared_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}))
    with pytest.raises(UnsupportedError, match="is a model of type mamba, which was not compared with one process"):
        Engine(str(tmp_path))
    file.write_text(json.dumps({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}))
    with pytest.raises(ConfigurationError, match="is a T5ForConditionalGeneration, and text is made by causal"):
        Engine(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(UnsupportedError, match="is a KolorsPipeline, which has not been compared"):
        Engine(str(tmp_path))


@pytest.mark.e2e
def test_what_a_question_cannot_have_is_refused_by_name(engine: Engine, reference: Reference) -> None:
    chat = engine.chat(context=BOOK)
    for options, said in (
        ({"max_tokens": 4}, "there is no generation option 'max_tokens'. Known: "),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it has to be a whole number from 1 to 1000000"),
        ({"seed": -1}, "seed is -1"),
        ({"top_p": 0.9, "do_sample": False}, "do_sample=False means greedy decoding, and top_p=0.9"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            chat.ask("Who?", **options)
    for question in (3, " "):
        with pytest.raises(ConfigurationError, match="it has to be a text"):
            chat.ask(question)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="it has to be a mapping with a role"):
        engine.chat(messages=[{"role": "robot", "content": "a"}])
    with pytest.raises(ConfigurationError, match="the content of a message is 3"):
        engine.chat(messages=[{"role": "user", "content": 3}])  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="context is 3"):
        engine.chat(context=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"generate makes pictures, and .* is a language model: use chat"):
        engine.generate("a fox")
    asked(chat, QUESTIONS[0], reference)
    chat.close()
