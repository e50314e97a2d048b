"""List or prune the content-keyed store (core/store.py)."""

from core import store
from core.files import one_line

if __name__ == "__main__":
    one_line(store.main)
