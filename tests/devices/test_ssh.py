"""What a connection makes of a board's answers, without any board."""

import json
from types import SimpleNamespace

import pytest

import run_on_board
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


def test_patience_is_a_number_of_seconds(monkeypatch):
    board = SimpleNamespace(patience=600)
    monkeypatch.delenv("LEVIT_SSH_PATIENCE", raising=False)
    assert run_on_board.patience(board) == 600
    monkeypatch.setenv("LEVIT_SSH_PATIENCE", "2.5")
    assert run_on_board.patience(board) == 2.5
    monkeypatch.setenv("LEVIT_SSH_PATIENCE", "soon")
    with pytest.raises(UserError, match="LEVIT_SSH_PATIENCE=soon: give a number of seconds"):
        run_on_board.patience(board)
