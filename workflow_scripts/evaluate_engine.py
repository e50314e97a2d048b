"""Measure the accuracy of an engine file on a split: top-1, top-5, agreement with and errors against PyTorch FP32.

For the runtime onnxruntime, an engine is a plain .onnx file. The recipe is {"threads"?}.
"""

from __future__ import annotations

from core import resolved
from core.command import Command, Job, engine_command, log
from core.files import UserError, sha256_file, write_json
from devices import probe


def run(args: Job) -> None:
    import runtimes
    from data import cache, index
    from measure import accuracy
    from measure.logits import logits_of, read_logits

    table = index.read(args.index)
    labels = index.labels(table, args.split)
    session = runtimes.load(args.runtime, args.plugin).load(args.engine, args.recipe.get("threads", 0))
    model = resolved.read(args.model, resolved.NORMALIZATION)
    logits = logits_of(session, args.engine, cache.read(args.images, len(labels)), model)
    accuracy.check_finite(logits, args.engine, index.files(table, args.index, args.split))
    if logits.shape[1] != len(table["classes"]):
        classes = f"{logits.shape[1]} classes, and the dataset {len(table['classes'])}"
        raise UserError(f"{args.engine} has {classes}: evaluate it on the dataset that it is of")
    scores = accuracy.score(logits, labels, read_logits(args.reference))
    facts = {"split": args.split, "engine_sha256": sha256_file(args.engine), "machine": probe.machine()}
    write_json(args.accuracy, {**facts, **scores})
    pair = scores["paired_with_fp32"]
    ends = "{:.1f} to {:.1f}".format(*pair["interval"])
    counts = "net loss {net_lost} images ({lost} lost, {gained} gained; with 95 %% confidence".format(**pair)
    text = "top-1 %(top1).2f %% of %(num_images)d images, PyTorch FP32 %(fp32_top1).2f %%"
    log.info(f"{text}: {counts} {ends})", scores)
    if scores["logit_error_over_spread"] is not None:
        log.info("the largest error of a logit is %.2g of their spread", scores["logit_error_over_spread"])


def command() -> Command:
    c = engine_command(__file__, __doc__)
    c.input("--engine").input("--images", help=".u8 of the split").input("--index")
    c.input("--reference", help=".npy of PyTorch FP32 logits of the same images")
    return c.param("--split", required=True).model(resolved.NORMALIZATION).output("--accuracy")


if __name__ == "__main__":
    command().run(run)
