"""The client in C++: its preprocessing is Pillow's within one level, its logits are those of the client in Python."""

import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bundles
from conftest import ROOT
from core.files import UserError
from data import preprocess

CPP = ROOT / "workflow_scripts/deployment/cpp"
RECORDED = ROOT / "tests/recorded/tensorrt_client"
HEADERS = {"jpeglib.h": "libjpeg-dev", "png.h": "libpng-dev", "zlib.h": "zlib1g-dev"}
MISSING = [f"{package} ({name})" for name, package in HEADERS.items() if not Path("/usr/include", name).exists()]
MISSING += [name for name in ("g++", "cmake") if not shutil.which(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
GEOMETRIES = [
    {"size": 224, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"},
    {"size": 64, "crop": 0.9, "crop_mode": "center", "interpolation": "bilinear"},
    {"size": 33, "crop": 1.0, "crop_mode": "squash", "interpolation": "bicubic"},
    {"size": 65, "crop": 1.15, "crop_mode": "center", "interpolation": "bicubic"},  # padded
]
SIZES = [(640, 480), (333, 500), (8, 8), (1, 1), (3, 7), (248, 248), (249, 999), (1, 4000), (4000, 1), (2000, 1500)]


def compile_cpp(target, *files, options=()):
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *options, "-I", str(CPP), *map(str, files)]
    done = subprocess.run([*command, *target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def picture(width, height, mode="RGB"):
    """Return an image with edges, slopes and texture."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    if mode == "I;16":
        return Image.fromarray((x * 77 + y * 301).astype(np.uint16))
    channels = [(x * 7 + y * 3) % 256, (x * y) % 256, 255 * ((x // 3 + y // 5) % 2), (x + y) % 256]
    image = Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def odd_images(folder):
    """Write images of all kinds that JPEG and PNG have; return their paths."""
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned, which timm and this project do not
    saved = {f"{w}x{h}.{end}": (picture(w, h), {}) for w, h in SIZES for end in ("png", "jpg")}
    saved.update({f"{mode[:2]}.png": (picture(333, 501, mode), {}) for mode in ("L", "RGBA", "P", "1", "LA", "I;16")})
    saved.update({f"{mode}.jpg": (picture(333, 501, mode), {}) for mode in ("L", "CMYK")})
    clear = {"P": 3, "RGB": (0, 0, 0), "L": 3}
    saved.update({f"clear.{m}.png": (picture(90, 70, m), {"transparency": key}) for m, key in clear.items()})
    saved["four.png"] = (picture(333, 501).quantize(4), {"bits": 2})
    kinds = ({"exif": exif}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2})
    saved.update({f"{n}.jpg": (picture(331, 501), {"quality": 60, **kind}) for n, kind in enumerate(kinds)})
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return [str(folder / name) for name in saved]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a function that prepares images with preprocess.cpp: (geometry, paths) -> ([pixels], printed lines)."""
    folder = tmp_path_factory.mktemp("pixels")
    sources = [CPP / f"{name}.cpp" for name in ("images", "preprocess", "json")]
    program = str(folder / "pixels")
    compile_cpp(["-ljpeg", "-lpng", "-o", program], ROOT / "tests/deployment/pixels.cpp", *sources)

    def run(geometry, paths):
        path = folder / "preprocess.json"
        path.write_text(json.dumps({**geometry, "mean": [0.5] * 3, "std": [0.5] * 3}))
        done = subprocess.run([program, str(path), *paths], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        raws = [Path(f"{name}.raw") for name in paths]
        shape = (geometry["size"], geometry["size"], 3)
        return [np.fromfile(raw, np.uint8).reshape(shape) if raw.exists() else None for raw in raws], done.stdout

    return run


@pytest.mark.slow
def test_pixels_are_pillow_s_within_one_level(prepared, tmp_path):
    paths = odd_images(tmp_path)
    for geometry in GEOMETRIES:
        found, problems = prepared(geometry, paths)
        assert problems == ""
        for path, pixels in zip(paths, found):
            expected = preprocess.prepare(preprocess.load(path), geometry)
            apart = np.abs(pixels.astype(int) - expected).max()
            assert apart <= 1, f"{path} at {geometry}: {apart} levels"
            Path(f"{path}.raw").unlink()


@pytest.mark.slow
def test_what_is_no_image_is_one_line(prepared, tmp_path):
    whole = {end: tmp_path / f"whole.{end}" for end in ("png", "jpg")}
    for path in whole.values():
        picture(200, 200).save(path)
    picture(20, 20).save(tmp_path / "other.webp")
    cases = {f"cut.{end}": path.read_bytes()[: path.stat().st_size // 2] for end, path in whole.items()}
    cases.update({"none.png": b"no image", "empty.jpg": b"", "other.jpg": (tmp_path / "other.webp").read_bytes()})
    cases["damaged.png"] = whole["png"].read_bytes().replace(b"IDAT", b"IDAX", 1)
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    found, text = prepared(GEOMETRIES[1], [str(tmp_path / name) for name in cases])
    assert found == [None] * len(cases) and len(text.splitlines()) == len(cases)
    for name, line in zip(cases, text.splitlines()):
        assert line.startswith(f"image {tmp_path / name} cannot be read (") and line.endswith("): replace or remove it")
        if name != "other.jpg":
            with pytest.raises(UserError):
                preprocess.load(str(tmp_path / name))


def run(program, *arguments, stdin=b""):
    done = subprocess.run([str(program), *map(str, arguments)], input=stdin, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module", params=[False, True], ids=("images", "pixels"))
def openvino_client(request, tmp_path_factory):
    """A bundle for OpenVINO with its client, compiled as the model card says; returns (bundle, program)."""
    folder = tmp_path_factory.mktemp("openvino")
    bundle = bundles.unpack(bundles.packed(folder, "openvino", request.param), folder / "a folder")
    assert (json.loads((bundle / "engine.json").read_text())["dtype"] == "uint8") is request.param
    (command,) = [line for line in (bundle / "README.md").read_text().splitlines() if "cmake -S cpp" in line]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, shell=True, cwd=bundle, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return bundle, bundle / "build/classify"


@pytest.mark.slow
def test_the_client_gives_the_recorded_logits(openvino_client, tmp_path):
    bundle, program = openvino_client
    status, text, problems = run(program, bundle, "selftest")
    assert (status, problems) == (0, "") and text.endswith("selftest passed\n")
    recorded = json.loads((bundle / "samples/samples.json").read_text())["samples"]
    for batch in (1, 3, 16):
        status, text, _ = run(program, bundle, bundle / "samples", "--logits", "--batch", batch)
        found = [json.loads(line) for line in text.splitlines()]
        assert status == 0 and [Path(one["image"]).name for one in found] == [one["file"] for one in recorded]
        for one, other in zip(found, recorded):
            assert np.allclose(one["logits"], other["logits"], atol=1e-4)
    ours = bundles.alone(bundle, "--logits", *(bundle / "samples" / one["file"] for one in recorded))[1]
    for one, other in zip(found, map(json.loads, ours.splitlines())):
        assert one["image"] == other["image"] and one["top"][0]["class"] == other["top"][0]["class"]
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], abs=1e-4)
    status, text, _ = run(program, bundle, "-", "--top", 1, stdin=(bundle / "samples/0.jpg").read_bytes())
    assert status == 0 and text.startswith("stdin: class ") and text.count("%") == 1
    status, text, _ = run(program, bundle, "--benchmark", "--seconds", 0.1)
    assert status == 0 and text.count(" images/s ") == 3


@pytest.mark.slow
def test_what_the_client_refuses(openvino_client, tmp_path):
    bundle, program = openvino_client
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/none.png").write_bytes(b"no image")
    shutil.copy(bundle / "samples/1.png", tmp_path / "photos/one.png")
    status, text, problems = run(program, bundle, tmp_path / "photos", "missing.jpg")
    assert status == 1 and len(text.splitlines()) == 1 and len(problems.splitlines()) == 2
    assert "none.png cannot be read (neither JPEG nor PNG" in problems and "missing.jpg: No such file" in problems
    for name, change, problem in (
        ("classes.txt", lambda data: b"one\ntwo\n", "classes.txt has 2 classes, and the engine 10"),
        ("model.engine", lambda data: data[:-30], "model.engine is not a whole engine file"),
        ("model.engine", lambda data: data[:5000] + b"?" + data[5001:], "model.engine is not a whole engine file"),
        ("model.engine", lambda data: swapped(data, b'"avx2"', b'"avx9"'), "this processor has no avx9"),
        ("result.json", lambda data: data[:100], "result.json is not JSON"),
        (
            "preprocess.json",
            lambda data: data.replace(b'"size": 16', b'"size": 32'),
            "preprocess.json has another size",
        ),
    ):
        changed = tmp_path / "changed"
        shutil.copytree(bundle, changed, ignore=shutil.ignore_patterns("build"))
        (changed / name).write_bytes(change((bundle / name).read_bytes()))
        status, text, problems = run(program, changed, "selftest")
        assert (status, text) == (1, "") and problems.startswith("error: ") and problem in problems
        assert problems.count("\n") == 1
        shutil.rmtree(changed)
    assert run(program)[0] == 2
    for value in ("x", "0", "0.5", "1e12"):
        status, text, problems = run(program, bundle, "selftest", "--top", value)
        assert (status, text) == (1, "") and re.match(r"error: --top takes a (positive|whole) number.*\n$", problems)
    with open("/dev/full", "w") as full:
        done = subprocess.run([program, bundle, bundle / "samples"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: standard output cannot be written")


@pytest.mark.slow
def test_a_logit_that_is_no_number_fails_the_selftest(openvino_client, tmp_path):
    bundle, program = openvino_client
    changed = shutil.copytree(bundle, tmp_path / "changed", ignore=shutil.ignore_patterns("build"))
    samples = json.loads((changed / "samples/samples.json").read_text())
    samples["samples"][1]["logits"][3] = float("nan")
    (changed / "samples/samples.json").write_text(json.dumps(samples))
    status, text, _ = run(program, changed, "selftest")
    assert status == 1 and text.count(": within ") == 2 and text.endswith("selftest failed\n")


def swapped(data, old, new):
    """Return a zip with other bytes in a member of the same length, and its checksum."""
    names = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name: archive.read(name).replace(old, new) for name in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("takes_pixels", [False, True], ids=("images", "pixels"))
def test_the_client_for_tensorrt(tmp_path, takes_pixels):
    """Against declarations and an engine whose logits are known: batches, profiles, padding, a plan that is none."""
    sources = [CPP / f"{name}.cpp" for name in ("main", "bundle", "images", "json", "preprocess", "engine_tensorrt")]
    program, options = tmp_path / "classify", ["-I", str(RECORDED)]
    compile_cpp(["-fsyntax-only", "-DEXTENT=int64_t"], sources[-1], options=options)  # of TensorRT 10
    libraries = ["-ljpeg", "-lpng", "-lpthread", "-ldl", "-o", str(program)]
    compile_cpp(libraries, *sources, RECORDED / "fake.cpp", options=options)
    bundle, photos = tmp_path / "bundle", tmp_path / "photos"
    bundle.mkdir()
    photos.mkdir()
    geometry = {**GEOMETRIES[2], "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 1.0]}
    (bundle / "preprocess.json").write_text(json.dumps(geometry))
    (bundle / "classes.txt").write_text('a\nb\n"c"\né\n')
    (bundle / "model.engine").write_text("uint8 33 4 1 4" if takes_pixels else "33 4 1 4")
    result = {"target_identity": {"runtime": "tensorrt", "version": "8.5.3.1", "device": "A GPU"}}
    result.update(provenance={"recipe": {"target": {}}}, benchmark=[])
    (bundle / "result.json").write_text(json.dumps(result))
    images = [picture(50 + 7 * number, 40) for number in range(7)]
    for number, image in enumerate(images):
        image.save(photos / f"{number}.png")
    pixels = np.stack([preprocess.prepare(image, geometry) for image in images])
    means = preprocess.normalize(pixels, geometry["mean"], geometry["std"]).mean(axis=(2, 3))
    if takes_pixels:
        means = pixels.mean(axis=(1, 2))
    expected = np.stack([means[:, c % 3] * (c + 1) for c in range(4)], axis=1)
    for batch in (1, 3, 4, 7):
        status, text, problems = run(program, bundle, photos, "--logits", "--batch", batch)
        found = [json.loads(line) for line in text.splitlines()]
        assert (status, problems) == (0, "") and {one["top"][0]["class"] for one in found} <= {"a", "b", '"c"', "é"}
        assert np.allclose([one["logits"] for one in found], expected, atol=1e-4)
    (bundle / "model.engine").write_text("no plan")
    status, _, problems = run(program, bundle, photos)
    made = "error: the engine was built for tensorrt 8.5.3.1 on A GPU, and TensorRT cannot load it here: "
    assert status == 1 and problems == f"{made}magicTag does not match\n"
    (bundle / "plugin.so").write_text("no library")
    assert "plugin.so cannot be loaded (" in run(program, bundle, photos)[2]
