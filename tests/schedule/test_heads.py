from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.interpreter import asked_once, meetings
from tokenring_xdit.errors import ScheduleError
from tokenring_xdit.schedule import Mask, verify
from tokenring_xdit.schedule.builders import heads


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_share_of_the_heads_each_is_proved_and_meets_every_pair_once(world_size: int, chunks: int) -> None:
    schedule = verify(heads(world_size, heads=world_size + 3, chunks=chunks)).schedule
    tokens = [1 + rank % 4 for rank in range(world_size)]
    count = world_size + 3
    assert np.array_equal(meetings(schedule, tokens, count), asked_once(Mask.FULL, tokens, count))


def test_fewer_heads_than_ranks_are_refused() -> None:
    with pytest.raises(ScheduleError, match="there are 3 for 4 ranks"):
        heads(4, heads=3)
