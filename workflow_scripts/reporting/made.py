"""Where results come from: commit, versions, hashes, and the command that makes each again. Standard library only."""

from __future__ import annotations

from typing import Any

from reporting import comparison, tables
from reporting.tables import Cell, Row, text

COLUMNS = (
    "result",
    "date",
    "commit",
    "device",
    "weights",
    "graph",
    "calibration",
    "engine",
    "machine",
    "made by",
    "again",
)
HASH = 12  # digits of a hash that are shown
SHOWN = ("python", "torch", "timm", "onnx", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "nvidia-modelopt")


def table_of(results: list[dict], dates: dict[str, str]) -> dict[str, Any] | None:
    """Return the table of the results' provenance; dates: {path of a result: when it was made}."""
    caption = (
        "What each result was made of: the first digits of SHA-256 hashes, versions, and the command that makes it"
    )
    return tables.table("provenance-table", caption, COLUMNS, [_row(result, dates) for result in results])


def _row(result, dates):
    made, path = result["provenance"], comparison.path_of(result)
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in SHOWN if name in made["versions"])
    hashes = (made.get("checkpoint_sha256"), made.get("graph_sha256"), made.get("calibration_sha256"))
    return Row(
        [
            Cell(f"{result['model']} {result['precision']} {result['target']}", link=path.split("/", 1)[1]),
            text(dates.get(path)),
            text(
                (made["git_commit"] or "")[:HASH] + ("-dirty" if (made["git_commit"] or "").endswith("-dirty") else "")
            ),
            text(comparison.device(result)),
            *(text((digest or "")[:HASH]) for digest in (*hashes, result["engine"]["sha256"])),
            text((result["benchmark"][0]["machine"] or "")[: comparison.BOARD]),
            text(versions),
            Cell(sort=path, command=f"make reproduce RESULT={path}"),
        ]
    )
