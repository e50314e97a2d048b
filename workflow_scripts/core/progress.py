"""A progress bar where tqdm is installed, and lines every tenth of the way where it is not (a device)."""

import sys
import time


class _Lines:
    def __init__(self, total, desc, unit):
        self.total, self.desc, self.unit = total, desc, unit
        self.done, self.shown, self.start, self.note = 0, 0, time.monotonic(), ""

    def update(self, count=1):
        self.done += count
        tenth = 10 * self.done // max(self.total, 1)
        if tenth > self.shown:
            self.shown = tenth
            rate = self.done / max(time.monotonic() - self.start, 1e-9)
            line = f"{self.desc}: {self.done}/{self.total} {self.unit} ({rate:.0f}/s) {self.note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def set_postfix_str(self, text, refresh=True):
        self.note = text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def bar(total, desc, unit="image"):
    """Return a context manager with `update(n)` and `set_postfix_str(text)`."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(total, desc, unit)
    interactive = sys.stderr.isatty()
    return tqdm(total=total, desc=desc, unit=unit, unit_scale=False, mininterval=0.2 if interactive else 5.0)


def over(items, desc, unit="image"):
    """Yield the items of a list under a progress bar."""
    with bar(len(items), desc, unit) as shown:
        for item in items:
            yield item
            shown.update()
