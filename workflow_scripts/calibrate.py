"""Calibrate the folded network: scale and correct it as the recipe says, then find the amax of every quantizer."""

from core import progress, resolved
from core.command import Command, Job, log
from core.files import read_json, write_json


def run(args: Job) -> None:
    from model import checkpoint, deploy, equivalence, training, zoo
    from quantization import calibration_images, imported_ranges
    from quantization.calibrator import Calibrator, format_recipe, is_scaled, needs_counts

    training.start(0, args.threads, "cpu")
    row = resolved.read(args.model, resolved.VISION)
    pixels = calibration_images.CalibrationImages(args.images, args.recipe["images"], row)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    chosen = read_json(args.sweep)["chosen"] if args.sweep else args.recipe
    folded = deploy.fold(source, equivalence.images(args.images, row))
    passes = 2 if is_scaled(chosen) else 1
    with progress.bar(passes * len(pixels), "calibrate") as bar:
        calibrator = Calibrator(folded, pixels, bar.update, needs_counts(chosen))
        ranges = (lambda network: imported_ranges.ranges(args.imported, network, source)) if args.imported else None
        calibration, _ = calibrator.calibrate(chosen, ranges)
    write_json(args.calibration, {"method": chosen["method"], "images": len(pixels), "recipe": chosen, **calibration})
    log.info("%d quantizers, %s over %d images", len(calibration["amax"]), format_recipe(chosen), len(pixels))


def command() -> Command:
    tools = ("torch", "timm", "nvidia-modelopt", "pytorch-quantization", "numpy")
    c = Command(__file__, __doc__, tools=tools, heavy=True)
    c.input("--checkpoint").input("--images", help="preprocessed calib split (.u8)")
    c.input("--sweep", required=False, help="JSON of sweep_calibration.py, which chooses the recipe")
    c.input("--imported", foreign=True, required=False, help="checkpoint of a network quantized elsewhere, with ranges")
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.json_param("--recipe", help="JSON of the precision's `calibration` row")
    return c.output("--calibration").untracked("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(run)
