"""What a connection makes of a board's answers, without any board."""

import json

import pytest

from core.files import UserError
from devices.board_agent import REPLY
from devices.ssh import Board, ConnectionLost

BOARD = Board({"name": "xavier", "ssh": "board"})
WHOLE = f"some noise\n{REPLY}{json.dumps({'exit': 0, 'free': 7})}\n"


def test_the_last_whole_reply_counts():
    assert BOARD._reply(0, WHOLE) == {"exit": 0, "free": 7}


@pytest.mark.parametrize("length", range(len("some noise\n"), len(WHOLE) - 2, 5))
def test_a_reply_that_a_lost_connection_cut_is_asked_for_again(length):
    with pytest.raises(ConnectionLost):
        BOARD._reply(255, WHOLE[:length])


def test_half_a_reply_of_a_board_that_ended_is_an_error():
    with pytest.raises(UserError, match="python3 there ended with status 1: levit-reply: {"):
        BOARD._reply(1, WHOLE[:-4])
