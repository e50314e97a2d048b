"""Progress without tqdm, as on the host of a kit."""

from core import progress


def test_without_tqdm_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(progress, "tqdm", None)
    assert list(progress.over([1, 2], "count")) == [1, 2]
    with progress.bar(3, "train") as bar:
        bar.update(2)
        bar.set_postfix_str("loss 1")
    assert capsys.readouterr() == ("", "")
