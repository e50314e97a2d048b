"""Where results come from: commit, versions, hashes, and the command that makes each again. Standard library only."""

from __future__ import annotations

from typing import Any

from reporting import comparison, tables
from reporting.tables import Cell, Row, text

COLUMNS = (
    "result",
    "date (UTC)",
    "commit",
    "device",
    "weights",
    "graph",
    "calibration",
    "engine",
    "machine",
    "made by",
    "make it again",
)
HASH = 12  # digits of a hash that are shown
SHOWN = ("python", "torch", "timm", "onnx", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "nvidia-modelopt")


def table_of(results: list[dict], dates: dict[str, str]) -> dict[str, Any] | None:
    """Return the table of the results' provenance; dates: {path of a result: when it was made}."""
    rows, shared = _without_shared([_row(result, dates) for result in results])
    caption = "Hashes are the first digits of SHA-256."
    caption += f" The same for all: {'; '.join(shared)}." if shared else ""
    return tables.table("provenance-table", caption, COLUMNS, rows)


def _without_shared(rows):
    """Return rows without the columns that say the same in each of several rows, and what those say."""
    values = [{row.cells[n].text for row in rows} for n in range(len(COLUMNS))] if len(rows) > 1 else []
    shared = {n: texts.pop() for n, texts in enumerate(values) if len(texts) == 1 and n and texts != {""}}
    lean = [row._replace(cells=[Cell() if n in shared else cell for n, cell in enumerate(row.cells)]) for row in rows]
    return lean, [f"{COLUMNS[n]} {value}" for n, value in shared.items()]


def _row(result, dates):
    made, path = result["provenance"], comparison.path_of(result)
    commit = made["git_commit"] or ""
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in SHOWN if name in made["versions"])
    hashes = (made.get("checkpoint_sha256"), made.get("graph_sha256"), made.get("calibration_sha256"))
    return Row(
        [
            Cell(f"{result['model']} {result['precision']} {result['target']}", link=comparison.link_of(path)),
            tables.moment(dates.get(path)),
            text(commit[:HASH] + "-dirty" * commit.endswith("-dirty")),
            text(comparison.device(result)),
            *(text((digest or "")[:HASH]) for digest in (*hashes, result["engine"]["sha256"])),
            text((result["benchmark"][0]["machine"] or "")[: comparison.BOARD]),
            text(versions),
            Cell(sort=path, command=f"make reproduce RESULT={path}"),
        ]
    )
