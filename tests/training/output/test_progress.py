"""How far a long step is: often on a terminal, seldom in a file."""

from labeldist.training.output import progress
from labeldist.training.output.progress import SILENT, NowAndThen, Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_come_seldom_and_ever_more_so():
    said, clock = [], Clock()
    tell = NowAndThen(said.append, first_s=30, longest_s=100, clock=clock)
    for second in range(0, 500, 10):
        clock.now = second
        tell(f"second {second}")
    # After 30, then 60 later, then 100 each time.
    assert said == ["second 30", "second 90", "second 190", "second 290", "second 390", "second 490"]


def test_nothing_is_said_where_nobody_listens(capsys):
    with SILENT.counted("predicting", 10, "row") as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")


def test_what_has_no_known_end_is_counted():
    told = []
    with Progress(tell=told.append).counted("predicting", None, "text") as advance:
        advance(1_000)
    assert told == ["predicting: 1,000 texts"]


def test_a_bar_leaves_nothing_behind(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_DELAY_S", 0)
    with Progress(bar=True).counted("predicting", 3, "row") as advance:
        for done in (1, 3):
            advance(done)
    err = capsys.readouterr().err
    assert "predicting" in err
    assert err.rpartition("\r")[0].rpartition("\r")[2].strip() == ""


def test_a_step_is_shown_at_once_and_leaves_nothing_behind(capsys):
    with Progress(bar=True).step("reading p\x1b[2J.csv"):
        shown = capsys.readouterr().err
    assert r"reading p\x1b[2J.csv ..." in shown
    err = capsys.readouterr().err
    assert err.rpartition("\r")[0].rpartition("\r")[2].strip() == ""
    with SILENT.step("drawing confusion.png"):
        pass
    assert capsys.readouterr() == ("", "")
