"""What was predicted of a DLA beside what its builder did. Standard library only."""


def compare(report, described):
    """Return {predicted, built, same, missing, unexpected} of a DLA-fit report and an engine's description.

    report: of fit.report; described: of a build, with `dla` {placed, built}. A subgraph is named by its first node, a
    layer of TensorRT by the nodes that it is made of, joined by ` + `. missing: predicted subgraphs that were not
    built; unexpected: those that were built and not predicted. `same` is None where the builder said nothing.
    """
    wanted = {subgraph["nodes"][0]: subgraph["number"] for subgraph in report["subgraphs"]}
    asked = report["prediction"]
    result = {
        "predicted": {"subgraphs": len(wanted), "verdict": asked["verdict"], "sentence": asked["sentence"]},
        "placed": described["dla"]["placed"],
        "built": described["dla"]["built"],
    }
    if result["built"] is None:
        return {**result, "same": None, "missing": [], "unexpected": []}
    found = [set(first.split(" + ")) for first, _ in result["built"]["subgraphs"]]
    missing = sorted(number for name, number in wanted.items() if not any(name in names for names in found))
    unexpected = [ends for ends, names in zip(result["built"]["subgraphs"], found) if not names & wanted.keys()]
    return {**result, "same": not missing and not unexpected, "missing": missing, "unexpected": unexpected}
