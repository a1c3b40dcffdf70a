"""What each rank that has a language model does; see :mod:`tokenring_xdit.workers.loop`."""

from __future__ import annotations

import traceback
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import transformers

from tokenring_xdit.devices import rank_device
from tokenring_xdit.pipelines.text_model import TextModel
from tokenring_xdit.pipelines.text_orders import Forget, Kept, LoadText, Question, ScoreText, TextScore
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.messages import Failed, Phase, Progress
from tokenring_xdit.workers.world import join_world

__all__ = ["commands", "join"]


def join(seconds: float, store: Any = None) -> torch.device:
    """Join the other ranks; returns this one's device.

    Args:
        seconds: After which ranks give up waiting for each other.
        store: Where they join; ``None`` is what the environment says.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = rank_device()
    join_world(device, timedelta(seconds=seconds), store)
    return device


def commands(mailbox: Mailbox) -> Commands:
    """Load a model, then answer questions."""
    model: TextModel | None = None

    def load(order: LoadText) -> Failed | None:
        nonlocal model
        try:
            model = TextModel(order, join(order.timeout, mailbox.store))
        except Exception as error:
            traceback.print_exc()
            return Failed.of(error, phase=Phase.LOADING)
        return None

    def tell(piece: str) -> bool:
        assert mailbox.number is not None
        mailbox.answer(Progress(mailbox.number, piece))
        return mailbox.cancelled()

    def answer(question: Question) -> Any:
        assert model is not None
        try:
            return model.answer(question, tell if dist.get_rank() == 0 else None)
        except Exception as error:
            return Failed.of(error, phase=model.phase)

    def forget(order: Forget) -> Kept:
        assert model is not None
        model.forget(order.chats)
        return Kept(model.kept)

    def score(order: ScoreText) -> TextScore:
        assert model is not None
        return model.score(order.text)

    return {LoadText: load, Question: answer, Forget: forget, ScoreText: score}
