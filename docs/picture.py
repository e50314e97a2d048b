"""Draw docs/page.png, the page of what an H200 measured (docs/measurements/): needs Chromium, `make chromium`."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("workflow_scripts", "tests/support")]

import chromium  # noqa: E402
import recorded_gpu  # noqa: E402
from reporting import page  # noqa: E402

PICTURE = ROOT / "docs/page.png"
SIZE = {"width": 1120, "height": 860}


def main():
    with tempfile.TemporaryDirectory() as place, chromium.tab(Path(place) / "profile") as tab:
        os.chdir(place)
        paths = recorded_gpu.write(Path(place))
        Path("report.html").write_text(page.render(paths, {}), encoding="utf-8")
        tab.open((Path(place) / "report.html").as_uri(), **SIZE).picture(PICTURE)


if __name__ == "__main__":
    main()
