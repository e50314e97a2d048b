"""Compare the predicted use of a DLA with what the builder did. Standard library only."""


def compare(report: dict, described: dict) -> dict:
    """Return {predicted, placed, built, same, missing, unexpected} of a DLA-fit report and an engine's description.

    report: of fit.report; described: of a build, with `dla` {placed, built}. The first node names a subgraph; the nodes
    of a TensorRT layer, joined by ` + `, name the layer. missing: predicted subgraphs that are not built; unexpected:
    subgraphs that are built and not predicted. `same` is None if the builder does not report its subgraphs.
    """
    predicted = {subgraph["nodes"][0]: subgraph["number"] for subgraph in report["subgraphs"]}
    verdict = {key: report["prediction"][key] for key in ("verdict", "sentence")}
    result = {"predicted": {"subgraphs": len(predicted), **verdict}}
    result.update({key: described["dla"][key] for key in ("placed", "built")})
    if result["built"] is None:
        return {**result, "same": None, "missing": [], "unexpected": []}
    built = [set(first.split(" + ")) for first, _ in result["built"]["subgraphs"]]
    missing = sorted(number for name, number in predicted.items() if not any(name in nodes for nodes in built))
    unexpected = [ends for ends, nodes in zip(result["built"]["subgraphs"], built) if not nodes & predicted.keys()]
    return {**result, "same": not missing and not unexpected, "missing": missing, "unexpected": unexpected}
