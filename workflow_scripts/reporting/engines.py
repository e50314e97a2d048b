"""The table of engines: a row for each engine and batch size, of which the page shows one an engine. No library."""

from __future__ import annotations

from typing import Any

from reporting import comparison, over_pytorch, tables
from reporting.comparison import best_batch
from reporting.tables import BAD, GREY, Cell, Row, number, percent, text, throughput

BEST = "best"  # the choice of the batch size that shows each engine at its own best one


def table_of(results: list[dict], name: str, caption: str) -> dict[str, Any] | None:
    """Return the table of results on the same images; name: its id in the page."""
    rows = [_row(results, result, entry) for result in results for entry in result["benchmark"]]
    return tables.table(name, caption, rows)


def inside_of(results: list[dict], name: str) -> dict[str, Any] | None:
    """Return the table of what the engines themselves are, a row an engine; name: its id in the page."""
    caption = "Agreement: images to which the engine and FP32 give the same class. MACs: multiply-accumulates"
    rows = [_inside(result) for result in results if not result["chosen"]]
    return tables.table(name, caption, rows)


def choices_of(results: list[dict]) -> list[str]:
    """Return what the batch size can be chosen as: BEST, then each one that is timed; BEST alone where there is one."""
    batches = sorted({entry["batch"] for result in results for entry in result["benchmark"]})
    return [BEST, *map(str, batches)] if len(batches) > 1 else [BEST]


def shown_at(result: dict, batch: int) -> str:
    """Return the choices that show a result at a batch size, separated by spaces."""
    return f"{batch} {BEST}" if batch == best_batch(result) else str(batch)


def remarks_of(result: dict, entry: dict) -> tuple[str, str]:
    """Return what should be known of a result's timing and engine, and the command that times again, or ""."""
    steady = entry["stable"] if not result["chosen"] else not comparison.unstable([result])
    lines = [] if steady else ["timing not stable"]
    lines += [f"chose {result['chosen']}"] if result["chosen"] else []
    lines += [] if result["accuracy"]["within_budget"] else [f"loses more than {result['accuracy']['budget']:g} points"]
    lines += ["less than half INT8"] if comparison.is_barely_int8(result) else []
    lines += ["timed beside other work"] if comparison.BUSY in comparison.marks_of(entry) else []
    return ", ".join(lines), "" if steady else f"make retime RESULT={comparison.path_of(result)}"


def _row(results, result, entry):
    accuracy, latency = result["accuracy"], entry["latency_ms"]
    remarks, command = remarks_of(result, entry)
    cells = {
        **_named(result),
        "batch": text(entry["batch"]),
        "top-1 %": percent(accuracy["top1"], accuracy["num_images"], "" if accuracy["within_budget"] else BAD),
        "images/s": throughput(entry["images_per_second"]),
        "median ms": number(latency["median"], "{:.3f}"),
        "p99 ms": number(latency["p99"], "{:.3f}"),
        "over FP32": _ratio(comparison.ratio(results, result, entry["batch"])),
        "over PyTorch": _over(over_pytorch.over_pytorch(results, result, entry["batch"])),
        "board": text(comparison.board_of(results, result, entry)),
        "mJ an image": number(entry["energy_mj_per_image"], "{:.2f}"),
        "remarks": Cell(remarks, remarks, command=command),
    }
    return Row(cells, GREY if command else "", shown_at(result, entry["batch"]))


def _named(result):
    name, link = f"{result['model']} {result['precision']}", comparison.link_of(comparison.path_of(result))
    return {"engine": Cell(name, name, link=link), "target": text(result["target"])}


def _inside(result):
    accuracy, engine = result["accuracy"], result["engine"]
    kinds = {kind: count for kind, count in (engine["precision_of_layers"] or {}).items() if count}
    share = engine["int8_share_of_macs"]
    cells = {
        **_named(result),
        "agreement with FP32 %": percent(accuracy["agreement_with_fp32"], accuracy["num_images"]),
        "engine MB": number(engine["bytes"] and engine["bytes"] / 1e6),
        "INT8 MACs %": number(share and 100 * share, "{:.0f}", BAD if comparison.is_barely_int8(result) else ""),
        "layers": text(engine["layers"]),
        "layers by precision": text(", ".join(f"{count} {kind}" for kind, count in kinds.items())),
    }
    return Row(cells)


def _ratio(ratio, name=""):
    """Return the cell of a Ratio: grey where the two were not timed in turns, or the faster one is not known."""
    if ratio is None:
        return Cell()
    style = comparison.style_of(ratio).replace("ratio", GREY)
    small = "timed apart" if ratio.low is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
    return Cell(f"{ratio.value:.2f}x", ratio.value, style, small if ratio.value != 1 or ratio.low != 1 else "")


def _over(over):
    """Return the cell of a ratio over PyTorch, with which PyTorch it is."""
    if over is None:
        return Cell()
    cell = _ratio(over.ratio)
    slower = ", slower" if over.ratio.value < 1 else ""
    return cell._replace(small=f"{over.name}, {cell.small}{slower}")
