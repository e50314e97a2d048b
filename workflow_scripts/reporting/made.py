"""Where results come from: commit, versions, hashes, and the command that makes each again. Standard library only."""

from __future__ import annotations

from typing import Any

from reporting import comparison, tables
from reporting.tables import Cell, Row, text

HASHES = {"weights": "checkpoint", "graph": "graph", "calibration": "calibration"}
HASH = 12  # digits of a hash that are shown
SHOWN = ("python", "torch", "timm", "onnx", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "nvidia-modelopt")


def table_of(results: list[dict], dates: dict[str, str]) -> dict[str, Any] | None:
    """Return the table of the results' provenance; dates: {path of a result: when it was made}."""
    rows = [_row(result, dates) for result in results]
    shared = _shared(rows) if len(rows) > 1 else {}
    lean = [Row({**row.cells, **dict.fromkeys(shared, Cell())}) for row in rows]
    caption = "Hashes are the first digits of SHA-256."
    if shared:
        caption += f" The same for all: {'; '.join(f'{column} {value}' for column, value in shared.items())}."
    return tables.table("provenance-table", caption, lean)


def _shared(rows):
    """Return {column: text} of the columns, but the first, that say the same in each row."""
    texts = {column: {row.cells[column].text for row in rows} for column in list(rows[0].cells)[1:]}
    return {column: several.pop() for column, several in texts.items() if len(several) == 1 and several != {""}}


def _row(result, dates):
    made, path = result["provenance"], comparison.path_of(result)
    commit, versions = made["git_commit"] or "", made["versions"]
    hashes = {name: made.get(f"{key}_sha256") for name, key in HASHES.items()}
    hashes["engine"] = result["engine"]["sha256"]
    cells = {
        "result": Cell(comparison.title_of(result), link=comparison.link_of(path)),
        "date (UTC)": tables.moment(dates.get(path)),
        "commit": text(commit[:HASH] + "-dirty" * commit.endswith("-dirty")),
        "device": text(comparison.device(result)),
        **{name: text((digest or "")[:HASH]) for name, digest in hashes.items()},
        "machine": text((result["benchmark"][0]["machine"] or "")[: comparison.BOARD]),
        "made by": text(", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)),
        "make it again": Cell(sort=path, command=f"make reproduce RESULT={path}"),
    }
    return Row(cells)
