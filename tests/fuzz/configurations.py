"""Configurations that are wrong, each with what the one line of refusal must name."""

import copy

import yaml

from workflow import REPOSITORY

TEXT = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
ROW = "  cpu:\n    runtime: openvino"  # of the table of targets

VALUES = [  # (path of keys, value, what is named)
    *(
        (("models", "LeViT-tiny", key), [value] * 3, f"models.LeViT-tiny.{key}")
        for key in ("mean", "std")
        for value in (float("nan"), float("inf"), float("-inf"), 123.675, "x", None, True, 10**400)
    ),
    (("models", "LeViT-tiny", "std"), [0, 0, 0], "models.LeViT-tiny.std"),
    (("models", "LeViT-tiny", "std"), [0.2, -0.2, 0.2], "models.LeViT-tiny.std[1]"),
    (("models", "LeViT-tiny", "std"), [], "models.LeViT-tiny.std"),
    (("models", "LeViT-tiny", "size"), 0, "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), -64, "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), 64.5, "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), 100_000, "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), [64, 64], "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), "064", "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), "6_4", "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "size"), "٦٤", "models.LeViT-tiny.size"),
    (("models", "LeViT-tiny", "crop"), 0, "models.LeViT-tiny.crop"),
    (("models", "LeViT-tiny", "crop"), 1.01, "models.LeViT-tiny.crop"),
    (("models", "LeViT-tiny", "crop"), float("nan"), "models.LeViT-tiny.crop"),
    (("models", "LeViT-tiny", "interpolation"), "Bicubic", "models.LeViT-tiny.interpolation"),
    (("models", "LeViT-tiny", "timm"), "", "models.LeViT-tiny.timm"),
    (("models", "LeViT-tiny", "timm"), ["levit_128s"], "models.LeViT-tiny.timm"),
    (("models", "LeViT-tiny", "options", "depth"), [1, float("nan"), 1], "models.LeViT-tiny.options.depth[1]"),
    (("models", "LeViT-tiny", "options"), {3: 4}, "models.LeViT-tiny.options"),
    (("models", "LeViT-tiny", "url"), "dl.example.org/x.pth", "models.LeViT-tiny.url"),
    (("models", "LeViT-tiny", "url"), "/data/x.pth", "models.LeViT-tiny.url"),
    (("models", "LeViT-tiny", "sha256"), 96703444, "models.LeViT-tiny.sha256"),
    (("models", "LeViT-tiny", "sha256"), "96703C44", "models.LeViT-tiny.sha256"),
    (("models", "LeViT-tiny", "sha256"), "96703c44\n", "models.LeViT-tiny.sha256"),
    (("models", "LeViT-tiny", "top1"), 101, "models.LeViT-tiny.top1"),
    (("models", "levit-TINY"), {"timm": "levit_128s", "size": 64}, "LeViT-tiny and levit-TINY"),
    (("models", "x\n"), {"timm": "levit_128s", "size": 64}, "models.'x\\n'"),
    (("models", "-x"), {"timm": "levit_128s", "size": 64}, "models.-x"),
    (("models", "x.y"), {"timm": "levit_128s", "size": 64}, "models.x.y"),
    (("models", "x" * 65), {"timm": "levit_128s", "size": 64}, "models.xxx"),
    (("models", "é"), {"timm": "levit_128s", "size": 64}, "models.é"),
    (("models", 5), {"timm": "levit_128s", "size": 64}, "models.5"),
    (("models", "x"), None, "models.x"),
    (("models", "x"), {"size": 64}, "models.x: the key timm"),
    (("models",), None, "models"),
    (("models",), [], "models"),
    *(
        (("datasets", "digits", "training", key), value, f"datasets.digits.training.{key}")
        for key, values in {
            "epochs": (0, -1, 10**9, 1.5, "1e3", None, True),
            "small_epochs": (-1, 15, 2.5),
            "small_size": (0, 1.5, float("nan")),
            "batch": (0, 10**9, 16.0, "many"),
            "learning_rate": (0, -1, float("inf"), float("nan"), 100, "fast", "1e-3s"),
            "betas": ([0.9, 1.0], [0.9], [-0.1, 0.9], [0.9, 0.99, 0.999], 0.9, [0.9, float("nan")]),
            "weight_decay": (-1, float("inf"), 1000),
            "smoothing": (1.0, -0.1),
            "warmup": (1.0, 5, "0.1.2"),
            "clip": (0, -1, float("inf")),
            "crop_scale": ([1.0, 0.8], [0, 1], [0.8, 2], [0.8]),
            "crop_ratio": ([1.1, 0.9], [0, 1], [0.001, 1]),
            "flip": (2, -0.5, "yes"),
            "freeze": ("stem.*", [3], {"stem": True}),
            "epoch": (3,),
        }.items()
        for value in values
    ),
    (("datasets", "digits", "splits", "calib"), -1, "datasets.digits.splits.calib"),
    (("datasets", "digits", "splits", "select"), 1.5, "datasets.digits.splits.select"),
    (("datasets", "digits", "splits", "val"), 0, "datasets.digits.splits.val"),
    (("datasets", "digits", "classes"), 1, "datasets.digits.classes"),
    (("datasets", "digits", "classes"), "ten", "datasets.digits.classes"),
    (("datasets", "digits", "weights"), "", "datasets.digits.weights"),
    (("datasets", "digits", "weights"), None, "datasets.digits.weights"),
    (("datasets", "digits", "weights"), "finetune", "datasets.digits: weights"),
    (("datasets", "digits", "from"), "official", "datasets.digits: weights"),
    (("datasets", "digits", "path"), "/x", "datasets.digits: give either"),
    (("datasets", "digits", "val"), "/x", "datasets.digits.val"),
    (("datasets", "digits", "labels"), "/x", "datasets.digits.labels"),
    (("datasets", "digits", "drawing"), {"fonts": "x", "train": 1, "val": 1}, "datasets.digits: builtin"),
    (("datasets", "imagenet", "path"), "/x\n", "datasets.imagenet.path"),
    (("datasets", "imagenet", "path"), "/x\x00y", "datasets.imagenet.path"),
    (("datasets", "imagenet", "path"), "", "datasets.imagenet.path"),
    *((("datasets", "imagenet", "shards"), value, "datasets.imagenet.shards") for value in (0, 10**7, 1.5, "all")),
    (("datasets", "imagenet", "subset"), {"images": 0}, "datasets.imagenet.subset.images"),
    *(
        (("datasets", name), {"path": "x", "classes": 2, "weights": "train"}, f"datasets.{name}")
        for name in ("targets", "logs", "history", "plugins")
    ),
    *(
        (("precisions", "int8_qat", *keys), value, ".".join(("precisions.int8_qat", *keys)))
        for keys, values in {
            ("budget",): (-0.1, 101, float("nan"), None, "little"),
            ("compute",): ("int4", "INT8", None),
            ("high_precision",): ("int8",),
            ("dla",): ("ja", 1),
            ("fallback",): ("some", {"plan": ""}, {"plans": "x"}),
            ("batches",): ([], [0], [1, 1], [1.5], [10**6], "1"),
            ("graph",): (7,),
            ("qat", "epochs"): (0, 10**7),
            ("qat", "batch"): (0, 10**6),
            ("qat", "steps"): (0, -3),
            ("qat", "learning_rate"): (0, 2, float("inf")),
            ("qat", "temperature"): (0, -1, float("inf"), 10**6),
            ("qat", "features"): (-1, float("nan")),
            ("qat", "ema"): (1, 1.0, -0.1),
            ("qat", "scales"): ("learnt",),
            ("calibration", "images"): (0, -1, 2.5),
            ("calibration", "method"): ("minmax",),
            ("calibration", "import"): ("",),
            ("calibration", "smoothing"): (1.5, -1),
            ("calibration", "bias_correction"): ("yes", 1),
            ("calibration", "candidates"): ([], [{"method": "sweep"}]),
        }.items()
        for value in values
    ),
    (("precisions", "int8_qat", "calibration", "percentile"), 99.9, "precisions.int8_qat.calibration"),
    (("precisions", "int8_dla", "calibration", "percentile"), 0.9999, "precisions.int8_dla.calibration.percentile"),
    (("precisions", "int8_dla", "calibration", "percentile"), 100.1, "precisions.int8_dla.calibration.percentile"),
    (("precisions", "int8_dla", "calibration", "equalize"), True, "precisions.int8_dla.calibration"),
    (("precisions", "int8_dla", "fallback"), "auto", "precisions.int8_dla"),
    (("precisions", "fp16_dla", "batches"), [1, 2], "precisions.fp16_dla"),
    (("precisions", "fp16", "criterion", "agreement"), 0.99, "precisions.fp16.criterion.agreement"),
    (("precisions", "fp16", "criterion", "tolerance"), 0, "precisions.fp16.criterion.tolerance"),
    (("precisions", "fp16", "calibration"), {"method": "max"}, "precisions.fp16: compute: int8 and a calibration"),
    (("precisions", "x"), {"compute": "int8", "budget": 1}, "precisions.x: compute: int8 and a calibration"),
    *(
        (("precisions", "auto", key), value, f"precisions.auto.{key}")
        for key, value in {
            "calibration": {"method": "max"},
            "batches": [1],
            "graph": "cpu",
            "high_precision": "fp16",
            "criterion": {"agreement": 99},
            "tf32": True,
        }.items()
    ),
    (("precisions", "fp32", "choose"), "all", "precisions.fp32"),
    (("precisions", "fp32", "fallback"), "auto", "precisions.fp32"),
    (("precisions", "auto", "choose"), [], "precisions.auto.choose"),
    (("precisions", "auto", "choose"), ["auto"], "precisions.auto"),
    (("precisions", "auto", "choose"), ["int9"], "int9"),
    *(
        (("targets", "cpu", key), value, f"targets.cpu.{key}")
        for key, values in {
            "batches": ([], [0], [-1], [1, 1], [10**6], [1.5], 16, None),
            "threads": (-1, 10**6, 1.5, "all"),
            "warmup_ms": (-1, 10**9, 0.5),
            "duration_ms": (-1, 10**9, float("inf"), "3s"),
            "iterations": (0, 10**9, True),
            "precisions": ([], ["fp32", "fp32"], ["fp64"], "fp32"),
            "runtime": ("", "../x", "open vino", None),
            "typed": ("perhaps", "yes", 0),
            "version": (8.5, ""),
            "compute_capability": (7.2, "72", "7.2\n"),
            "compute_capabilities": ([], ["8"]),
            "dla": (-1, 99),
            "workspace_mb": (0, 10**9),
            "optimization_level": (6,),
            "ssh": ("", "-oProxyCommand=x", "me@host\n"),
            "workdir": ("", "x"),
            "other_power_mode": ("mark", "ignore"),
            "duration_s": (3,),
        }.items()
        for value in values
    ),
    (("targets", "cpu", "graph"), "cqu", "cqu"),
    (("targets", "cpu", "dla"), 1, "targets.cpu"),
    (("targets", "rtx", "graph"), "cpu", "targets.rtx"),
    (("targets", "a-b"), {"runtime": "openvino", "graph": "cpu", "precisions": ["fp32"]}, "targets.a-b"),
    (("targets", "CPU"), {"runtime": "openvino", "graph": "cpu", "precisions": ["fp32"]}, "cpu and CPU"),
    (("graphs", "cpu", "placement"), ["conv", "conv"], "graphs.cpu.placement"),
    (("graphs", "cpu", "placement"), ["convs"], "graphs.cpu.placement"),
    (("graphs", "cpu", "passes"), "fold_constants", "graphs.cpu.passes"),
    (("graphs", "cpu", "passes"), ["fold_constant"], "graphs.cpu.passes"),
    (("seed",), -1, "seed"),
    (("seed",), 2**40, "seed"),
    (("seed",), 1.5, "seed"),
    (("seed",), "0x1", "seed"),
    (("seed",), [], "seed"),
    (("store",), 3, "store"),
    (("store",), "x\ny", "store"),
    (("site",), "Host", "site"),
    (("site",), None, "site"),
    (("dataset",), "digit", "digit"),
    (("dataset",), "digits\n", "dataset"),
    (("dataset",), None, "dataset"),
    (("results", "models"), [], "results.models"),
    (("results", "models"), ["LeViT-128S", "LeViT-128S"], "results.models"),
    (("results", "models"), ["LeViT-129S"], "LeViT-129S"),
    (("results", "targets"), "cpu", "results.targets"),
    (("results", "batch"), 1, "results.batch"),
    (("model",), {}, "model"),
]

TEXTS = {  # name: (the whole text of config.yaml, as bytes; what is named)
    "a key twice": (TEXT.replace("seed: 0", "seed: 0\nseed: 1", 1), "the key seed is there twice (lines "),
    "a copied row": (
        TEXT.replace("  ort:\n    runtime: onnxruntime", f"{ROW}\n    graph: cpu\n  ort:\n    runtime: onnxruntime", 1),
        "the key targets.cpu is there twice (lines ",
    ),
    "a key twice in braces": (
        TEXT.replace("{calib: 512, select: 200}", "{calib: 512, calib: 64, select: 200}", 1),
        "the key datasets.digits.splits.calib is there twice",
    ),
    "a table twice": (TEXT + "\ngraphs: {}\n", "the key graphs is there twice"),
    "octal": (TEXT.replace("epochs: 14", "epochs: 010", 1), "datasets.digits.training.epochs: 010"),
    "base 60": (TEXT.replace("duration_ms: 3000", "duration_ms: 1:30", 1), "targets.cpu.duration_ms: 1:30"),
    "base 60 with a fraction": (TEXT.replace("budget: 0.1", "budget: 1:0.5", 1), "precisions.fp32.budget: 1:0.5"),
    "a date": (TEXT.replace("version: '8.5'", "version: 2026-11-26", 1), "targets.xavier.version: 2026-11-26"),
    "not a number": (TEXT.replace("learning_rate: 0.001", "learning_rate: .nan", 1), "training.learning_rate: .nan"),
    "infinity": (TEXT.replace("learning_rate: 0.001", "learning_rate: .inf", 1), "training.learning_rate: .inf"),
    "minus infinity": (
        TEXT.replace("learning_rate: 0.001", "learning_rate: -.Inf", 1),
        "training.learning_rate: -.Inf",
    ),
    "an octal hash": (TEXT.replace("'96703c44'", "00703044", 1), "models.LeViT-128S.sha256: 00703044"),
    "a number for a hash": (TEXT.replace("'96703c44'", "96703044", 1), "models.LeViT-128S.sha256"),
    "a word for a boolean": (TEXT.replace("typed: true", "typed: ture", 1), "targets.rtx.typed"),
    "a boolean for a name": (TEXT.replace("dataset: digits", "dataset: no", 1), "dataset"),
    "latin-1": (TEXT.replace("# of splits", "# f\xfcr splits", 1).encode("latin-1"), "byte 0xfc is not UTF-8"),
    "utf-16": (TEXT.encode("utf-16"), "is not UTF-8"),
    "cut in a character": ((TEXT + "# ").encode() + b"\xc3", "is not UTF-8"),
    "a null byte": (TEXT.encode() + b"\x00", "'\\x00'"),
    "an escape": (TEXT.encode() + b"# \x1b[31m\n", "'\\x1b'"),
    "binary": (bytes(range(256)) * 16, "is not UTF-8"),
    "a tab": (TEXT.replace("  models: [LeViT-128S]", "\tmodels: [LeViT-128S]", 1), "not YAML"),
    "an open bracket": (TEXT.replace("[LeViT-128S]", "[LeViT-128S", 1), "not YAML"),
    "an open quote": (TEXT.replace("'96703c44'", "'96703c44", 1), "not YAML"),
    "a colon too many": (TEXT.replace("seed: 0", "seed: 0: 1", 1), "not YAML"),
    "a bad indent": (TEXT.replace("    compute: fp32", "     compute: fp32", 1), "not YAML"),
    "an alias of nothing": (TEXT.replace("seed: 0", "seed: *seed", 1), "undefined alias"),
    "an alias of itself": (TEXT.replace("options: {", "options: &o {self: *o, ", 1), "holds itself"),
    "aliases of aliases": (
        TEXT.replace(
            "options: {",
            "options: {"
            + "a0: &a0 [x, x, x, x, x, x, x, x, x, x], "
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}], " for n in range(1, 12)),
            1,
        ),
        "once its aliases are written out",
    ),
    "two documents": (TEXT + "\n---\nseed: 1\n", "expected a single document"),
    "a Python object": (TEXT.replace("seed: 0", "seed: !!python/object/apply:os.getpid []", 1), "not a type of a conf"),
    "a tuple": (TEXT.replace("[0.9, 0.99]", "!!python/tuple [0.9, 0.99]", 1), "not a type of a configuration"),
    "a set": (TEXT.replace("[LeViT-128S]", "!!set {LeViT-128S}", 1), "not a type of a configuration"),
    "bytes": (TEXT.replace("dataset: digits", "dataset: !!binary ZGlnaXRz", 1), "not a type of a configuration"),
    "a key that is a list": (TEXT + "\n? [a, b]\n: c\n", "is not text"),
    "a list": ("- a\n- b\n", "not a table"),
    "a word": ("digits\n", "not a table"),
    "nothing": ("", "not a table"),
    "comments alone": ("# nothing\n", "not a table"),
    "a page of the web": ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "not a table"),
    "deep": ("a: " + "[" * 20_000, "not YAML"),
    "JSON with a key twice": ('{\n\t"dataset": "digits", "dataset": "digits"}', "the key dataset is there "),
    "a merged scalar": (TEXT.replace("{method: max}", "{<<: 3, method: max}", 1), "is not a table to merge"),
    "half": (TEXT[: len(TEXT) // 2], ""),
}


def changed(keys, value):
    """Return the parsed config.yaml with another value at a path of keys."""
    config = copy.deepcopy(PARSED)
    place = config
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    return config


PARSED = yaml.safe_load(TEXT)
