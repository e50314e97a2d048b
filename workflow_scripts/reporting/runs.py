"""Histories of results on the page: a table of each name, and facts of two runs to compare. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.files import read_json
from measure import proportion
from reporting import charts, comparison, tables
from reporting.tables import GREY, Row, moment, number, percent, text, throughput

MOVES = {"machine": "board", "power_mode": "power mode"}  # facts of a timing, as they are named
HASHES = {"checkpoint_sha256": "weights", "graph_sha256": "graph", "calibration_sha256": "calibration"}


def load(paths: Iterable[str]) -> dict[str, list[dict]]:
    """Return {name of a result: its entries, the earliest first} of histories."""
    return {str(path).rsplit("/", 1)[1][: -len(".json")]: read_json(path)["entries"] for path in paths}


def dates(histories: dict[str, list[dict]]) -> dict[str, str]:
    """Return {path of a result: when it was made}."""
    return {f"results/{name}.json": entries[-1]["date"] for name, entries in histories.items() if entries}


def history_of(name: str, entries: list[dict]) -> dict[str, Any]:
    """Return {name, chart, table, count} of a name, at the batch size that its last entry is fastest at."""
    batch = comparison.best_batch(entries[-1])
    rows = [_row(*pair, batch) for pair in zip(entries, [None, *entries])]
    points = [point for one in entries for point in _points(one, batch)]
    chart = charts.draw("history", points, f"Images per second of {name} at batch {batch} over time")
    caption = f"Results of {name} so far, with the gain over the one before; small changes between days prove nothing"
    table = tables.table(f"history-{name.replace('.', '-')}", caption, rows)
    return {"name": name, "chart": chart, "table": table, "count": len(entries)}


def _points(entry, batch):
    timing = comparison.timing(entry, batch)
    if timing is None:
        return []
    speed, color = timing["images_per_second"], "var(--c1)" if timing["stable"] else charts.GREY
    label = f"{tables.to_minute(entry['date'])}: {tables.speed(speed)} images/s at batch {batch}"
    return [{"name": "", "date": entry["date"], "speed": speed, "color": color, "label": label}]


def _row(entry, before, batch):
    accuracy, timing = entry["accuracy"], comparison.timing(entry, batch)
    latency = timing["latency_ms"] if timing else {}
    last = comparison.timing(before, batch) if before else None
    gain = timing["images_per_second"] / last["images_per_second"] if timing and last else None
    cells = {
        "date (UTC)": moment(entry["date"]),
        "commit": text((entry["git_commit"] or "")[:12]),
        "top-1 %": percent(accuracy["top1"], accuracy["num_images"]),
        "batch": text(batch),
        "images/s": throughput(timing["images_per_second"] if timing else None),
        "times the one before": number(gain, "{:.2f}x", GREY),
        "median ms": number(latency.get("median"), "{:.3f}"),
        "p99 ms": number(latency.get("p99"), "{:.3f}"),
        "what changed": text(", ".join(changes(before, entry)) if before else "first"),
    }
    return Row(cells, "" if timing and timing["stable"] else GREY)


def changes(before: dict, entry: dict) -> list[str]:
    """Return what differs between two entries: artifacts by their hashes, versions of packages, device, choice."""
    changed = [name for key, name in HASHES.items() if before[key] != entry[key]]
    changed += ["engine"] if before["engine"]["sha256"] != entry["engine"]["sha256"] else []
    old, new = before["versions"] or {}, entry["versions"] or {}
    changed += [f"{name} {old[name]} to {new[name]}" for name in sorted(old.keys() & new) if old[name] != new[name]]
    changed += [f"{key}: {entry[key]}" for key in ("dataset", "device", "chosen") if before[key] != entry[key]]
    changed += [f"{name}: {value}" for name, value in _moved(before, entry).items()]
    return changed or ["timing alone"]


def _moved(before, entry):
    """Return what of the board and its power mode differs between two entries, as far as both tell."""
    old, new = ({key: entry["benchmark"][0].get(key) for key in MOVES} for entry in (before, entry))
    return {MOVES[key]: _shown(key, new[key]) for key in MOVES if old[key] and new[key] and old[key] != new[key]}


def _shown(key, value):
    return value[: comparison.BOARD] if key == "machine" else value


def runs_of(histories: dict[str, list[dict]]) -> list[dict[str, Any]]:
    """Return every entry as the page compares two of them: {name, facts: [[label, text, number or None]]}."""
    named = [(name, entry) for name, entries in sorted(histories.items()) for entry in reversed(entries)]
    return [
        {"name": f"{name}, {tables.to_minute(entry['date'])}", "facts": list(_facts(entry))} for name, entry in named
    ]


def _facts(entry):
    accuracy, engine = entry["accuracy"], entry["engine"]
    ends = "{:.1f} to {:.1f}".format(*proportion.interval(accuracy["top1"], accuracy["num_images"]))
    yield "top-1 %", f"{accuracy['top1']:.2f} ({ends})", accuracy["top1"]
    yield "agreement with FP32 %", f"{accuracy['agreement_with_fp32']:.2f}", accuracy["agreement_with_fp32"]
    for timing in entry["benchmark"]:
        yield from _timed_facts(timing)
    yield "engine MB", f"{engine['bytes'] / 1e6:.1f}", engine["bytes"]
    yield "engine", (engine["sha256"] or "")[:12], None
    for key, name in HASHES.items():
        yield name, (entry[key] or "none")[:12], None
    yield "commit", (entry["git_commit"] or "unknown")[:12], None
    yield "device", entry["device"] or "unknown", None
    for name, version in sorted((entry["versions"] or {}).items()):
        yield name, version, None


def _timed_facts(timing):
    batch, latency = f" at batch {timing['batch']}", timing["latency_ms"]
    doubt = "" if timing["stable"] else ", not stable"
    yield f"images/s{batch}", f"{tables.speed(timing['images_per_second'])}{doubt}", timing["images_per_second"]
    for key in ("median", "p99"):
        yield f"{key} ms{batch}", f"{latency[key]:.3f}{doubt}", latency[key]
    for key, name in MOVES.items():
        if timing.get(key):
            yield f"{name}{batch}", _shown(key, timing[key]), None
    if timing["energy_mj_per_image"]:
        yield f"mJ an image{batch}", f"{timing['energy_mj_per_image']:.2f}", timing["energy_mj_per_image"]
