"""Progress where stderr is no terminal: lines in the log, and nothing on stderr."""

import logging

from core import progress


def test_a_log_has_a_line_once_a_minute(caplog, capsys, monkeypatch):
    log = logging.getLogger("levit")  # as earlier tests may leave it, it writes to a closed file and tells no one else
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    monkeypatch.setattr(log, "propagate", False)
    with caplog.at_level("INFO", "levit"):
        assert list(progress.over([1, 2], "calibrate")) == [1, 2]
        assert not caplog.messages, "what takes less than a minute is not worth a line"
        monkeypatch.setattr(progress, "MINUTE", 0.0)
        list(progress.over([1, 2], "calibrate"))
    assert caplog.messages[-1].startswith("calibrate: 2 of 2 in 00:00")
    assert capsys.readouterr().err == ""
