"""Nasty folders: each file is an image that counts, or counted as left out with a reason, or named in one line."""

import io
import os
import re
import socket
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image
from test_index import folder_of, refused, run

from core.files import UserError, write_json
from data import image_formats, index, preprocess, walk
from data import indexing as building
from snakefile import image_stamp

ROW = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}}
IMAGES = 16  # of the folder that each case changes
GEOMETRY = {"size": 8, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"}


def encoded(kind, mode="RGB", **options):
    """Return the bytes of a small image."""
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def several(kind):
    more = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    return encoded(kind, save_all=True, append_images=more)


def deep(kind, dtype):
    stream = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=dtype).reshape(12, 16)).save(stream, kind)
    return stream.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def wide(width, height):
    """Return a PNG of that many black pixels in few bytes."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\0\0\0\0"
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


COUNTED = {  # file name: content
    "a.jfif": encoded("JPEG"),
    "a.JPG": encoded("JPEG"),
    "a.jpe": encoded("JPEG"),
    "no_extension": encoded("PNG"),
    "a.dat": encoded("JPEG"),
    "a.1": encoded("WEBP", lossless=True),
    "a.txt": encoded("GIF"),
    "a.tmp": encoded("BMP"),
    "a.bak": encoded("TIFF"),
    "a.raw": encoded("PPM"),
    "pgm": encoded("PPM", "L"),
    "pbm": encoded("PPM", "1"),
    "a.j2k": encoded("JPEG2000"),
    "a.j2c": encoded("JPEG2000", no_jp2=True),
    "an_avif": encoded("AVIF"),
    "a.jpg.part": encoded("JPEG"),
    "webp.png": encoded("WEBP"),
    "animated.gif": several("GIF"),
    "animated.png": several("PNG"),
    "animated.webp": several("WEBP"),
    "pages.tif": several("TIFF"),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "cmyk.tif": encoded("TIFF", "CMYK"),
    "palette.png": encoded("PNG", "P", transparency=0),
    "alpha.png": encoded("PNG", "RGBA"),
    "la.png": encoded("PNG", "LA"),
    "bit.png": encoded("PNG", "1"),
    "lab.tif": encoded("TIFF", "LAB"),
    "sixteen.png": deep("PNG", np.uint16),
    "sixteen.tif": deep("TIFF", np.uint16),
    "float.tif": deep("TIFF", np.float32),
    "rotated.jpg": rotated(),
    "long.png": wide(4000, 1),
    "ünïcödé 猫.png": encoded("PNG"),
    " blank at both ends .png ": encoded("PNG"),
    "-rf.png": encoded("PNG"),
    "$(touch x);'\".png": encoded("PNG"),
    os.fsdecode(b"no \xff text.png"): encoded("PNG"),
    "a" * 251 + ".png": encoded("PNG"),
    "\r.png": encoded("PNG"),
}


def put(folder, name, content):
    path = folder / "c0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def pictures(tmp_path):
    return folder_of(tmp_path / "pictures", 2, 8)


def indexed(folder, row=ROW):
    """Return the index of `pictures` in a folder, made in this process."""
    (folder / "data").mkdir(exist_ok=True)
    found, lines = building.build(str(folder / row["path"]), row, 0, hash_all=False)
    (folder / "data" / "train.tsv").write_bytes(lines)
    write_json(folder / "data" / "index.json", found)
    return index.read(folder / "data" / "index.json")


def everything(folder, listing):
    """Return the image files of an index, each once."""
    found = [list(index.files(listing, folder / "data" / "index.json", split)) for split in index.SPLITS]
    assert len(found[0] + found[2] + found[3]) == len(set(found[0] + found[2] + found[3]))
    return sorted({file for files in found for file in files})


def test_the_command_says_what_it_leaves_out_and_takes_names_that_are_no_text(tmp_path, pictures):
    for name, content in {"notes.txt": b"x", "README": b"x", ".hidden": b"x"}.items():
        put(pictures, name, content)
    put(pictures, os.fsdecode(b"no \xff text.png"), encoded("PNG"))
    code, text = run(tmp_path, ROW)
    assert code == 0 and "left out: 1 hidden, 2 not an image\n" in text, text
    put(pictures, os.fsdecode(b"no \xff text, cut.png"), b"x")
    (tmp_path / "data" / "index.json").unlink()
    refused(tmp_path, ROW, "text, cut.png cannot be read")


def test_images_of_every_kind_and_name_count_and_can_be_decoded(tmp_path, pictures):
    for name, content in COUNTED.items():
        put(pictures, name, content)
    listing = indexed(tmp_path)
    files = everything(tmp_path, listing)
    assert {os.path.basename(file) for file in files} >= set(COUNTED)
    assert len(files) == IMAGES + len(COUNTED) and listing["left_out"] == {}
    for file in files:
        assert preprocess.prepare(preprocess.load(file), GEOMETRY).shape == (8, 8, 3)


def named(name, content=b"x"):
    return lambda root: put(root, name, content)


def link(name, to):
    def make(root):
        (root / "c0" / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(to, root / "c0" / name)

    return make


def fifo(root):
    os.mkfifo(root / "c0" / "pipe.png")


def bound(root):
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(root / "c0" / "socket.jpg"))


def both(*makers):
    return lambda root: [make(root) for make in makers]


LEFT_OUT = {  # case: (how it is made, the reason that the index gives)
    "text": (named("notes.txt"), {"not an image": 1}),
    "no extension": (named("README"), {"not an image": 1}),
    "text like a bitmap": (named("BMW.txt", b"BMW is a maker of cars and of motorcycles"), {"not an image": 1}),
    "text like a pixmap": (named("P1.txt", b"P1 is the first page of this"), {"not an image": 1}),
    "Windows": (both(named("Thumbs.db", b"\xd0\xcf\x11\xe0"), named("desktop.ini")), {"not an image": 2}),
    "EPS": (named("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"), {image_formats.UNREAD: 1}),
    "HEIC": (named("a.HEIC", b"\0\0\0\x18ftypheic"), {image_formats.UNREAD: 1}),
    "SVG": (named("a.svg", b"<svg/>"), {image_formats.UNREAD: 1}),
    "PDF": (named("a.pdf", b"%PDF-1.7"), {image_formats.UNREAD: 1}),
    "empty": (both(named(".gitkeep", b""), named("done", b"")), {"hidden": 1, "empty": 1}),
    "hidden": (both(named("._0.png"), named(".DS_Store")), {"hidden": 2}),
    "hidden folder": (both(named(".git/a.png"), named(".git/b/c.png")), {"hidden": 1}),
    "hidden deeper": (named("deeper/.ipynb_checkpoints/a.png"), {"hidden": 1}),
    "thumbnails": (named("@eaDir/a.png", encoded("PNG")), {"hidden": 1}),
    "fifo": (fifo, {"not a file": 1}),
    "socket": (bound, {"not a file": 1}),
    "device": (link("null.png", "/dev/null"), {"not a file": 1}),
    "dangling": (link("x.png", "gone.png"), {"dangling link": 1}),
    "link to itself": (link("x.png", "x.png"), {"dangling link": 1}),
    "links in a ring": (both(link("x.png", "y.png"), link("y.png", "x.png")), {"dangling link": 2}),
    "link to its folder": (link("loop", "."), {walk.ABOVE: 1}),
    "link to the half": (link("loop", ".."), {walk.ABOVE: 1}),
    "link out and back": (link("loop", "../../pictures/../pictures"), {walk.ABOVE: 1}),
    "link to the root of all": (link("loop", "/"), {walk.ABOVE: 1}),
    "link to another class": (link("more", "../c1"), {walk.AGAIN: 1}),
    "two links to a folder": (
        both(named("../../there/a.png", encoded("PNG")), link("a", "../../there"), link("b", "../../there")),
        {walk.AGAIN: 1},
        1,
    ),
    "a link to what is above another": (
        both(
            named("../../there/below/a.png", encoded("PNG")), link("a", "../../there/below"), link("b", "../../there")
        ),
        {walk.AGAIN: 1},
        1,
    ),
    "loose": (named("../loose.png", encoded("PNG")), {"beside the class folders": 1}),
    "a file beside the classes": (named("../LICENSE"), {"not an image": 1}),
    "a folder named like an image": (named("folder.png/a.png", encoded("PNG")), {}, 1),
    "hard link": (lambda root: os.link(root / "c0/0.png", root / "c0/again.png"), {}, 1),
    "link to an image": (link("again.png", "0.png"), {}, 1),
    "tabs in a name that is not an image": (named("a\tb\nc"), {"not an image": 1}),
    "folders with odd names": (named("a b/ü/'$x/a.png", encoded("PNG")), {}, 1),
    "no permission (root reads it)": (lambda root: put(root, "x.png", encoded("PNG")).chmod(0), {}, 1),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_is_counted_by_reason(tmp_path, pictures, case):
    make, said, *more = LEFT_OUT[case]
    make(pictures)
    listing = indexed(tmp_path)
    assert listing["left_out"] == said
    assert len(everything(tmp_path, listing)) == IMAGES + sum(more)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n/x {(%pipe%touch ran) (w) file} def x\n"
REFUSED = {
    "EPS called PNG": (named("x.png", EPS), "pictures/c0/x.png cannot be read (cannot identify image file)"),
    "text called JPEG": (named("x.jpg", b"404 not found"), "pictures/c0/x.jpg cannot be read"),
    "empty": (named("x.png", b""), "pictures/c0/x.png is empty: replace or remove it"),
    "a tab in an image's name": (named("a\tb.png", encoded("PNG")), "has a tab or a newline in its name: rename it"),
    "a line's end": (named("a\nb.png", encoded("PNG")), "has a tab or a newline in its name: rename it"),
    "a line's end in a folder": (named("a\nb/c.png", encoded("PNG")), "has a tab or a newline in its name"),
    "a class without images": (named("../c2/notes.txt"), "pictures/c2 holds no image (JPEG, PNG"),
    "a class that is a loop": (link("../c2", ".."), "pictures/c2 holds no image"),
    "a class that is another's link": (link("../c2", "c1"), "and is a link to"),
    "a system's folder is not a class": (named("../__MACOSX/._a.png"), None),
    "no text in a class's name": (named("../c\udcff/notes.txt"), "holds no image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said_in_a_line(tmp_path, pictures, case):
    make, said = REFUSED[case]
    make(pictures)
    if said is None:
        assert indexed(tmp_path)["left_out"] == {"hidden": 1}
    else:
        with pytest.raises(UserError, match=re.escape(said)):
            indexed(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_eps_never_reaches_pillows_own_reader(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *image: pytest.fail("Ghostscript was started"))
    (tmp_path / "x.png").write_bytes(EPS)
    with pytest.raises(UserError, match=r"x.png cannot be read \(cannot identify image file"):
        preprocess.load(tmp_path / "x.png")


def test_a_bomb_and_a_cut_image_are_named_when_they_are_decoded(tmp_path):
    for name, content in {"bomb.png": wide(20000, 20000), "cut.png": encoded("PNG")[:-30]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"image .*{name} cannot be read \("):
            preprocess.load(tmp_path / name)


def test_every_format_that_is_listed_is_known_by_its_content():
    for kind in image_formats.FORMATS:
        assert image_formats.has_magic(encoded(kind)[: image_formats.HEAD]), kind
    assert set(image_formats.formats()) == set(image_formats.FORMATS)


def test_chains_of_links_cost_nothing(tmp_path, pictures):
    """Each folder has two links to the next: as paths there are 2^20."""
    for number in range(20):
        folder = tmp_path / f"f{number}"
        folder.mkdir()
        for name in "ab":
            os.symlink(f"../f{number + 1}", folder / name)
    (tmp_path / "f20").mkdir()
    (tmp_path / "f20" / "x.png").write_bytes(encoded("PNG"))
    os.symlink("../../f0", pictures / "c0" / "start")
    listing = indexed(tmp_path)
    assert listing["left_out"] == {walk.AGAIN: 20} and len(everything(tmp_path, listing)) == IMAGES + 1


def test_folders_deeper_than_pythons_stack(tmp_path, pictures):
    deepest = str(pictures / "c0")
    for _ in range(1500):
        deepest += "/d"
        os.mkdir(deepest)
    with open(f"{deepest}/x.png", "wb") as stream:
        stream.write(encoded("PNG"))
    listing = indexed(tmp_path)
    assert len(everything(tmp_path, listing)) == IMAGES + 1
    assert image_stamp.fingerprint({"path": str(pictures)})
    subprocess.run(["rm", "-r", str(pictures / "c0")], check=True)  # pytest's own cleaning would recurse


def test_what_stands_beside_the_halves_is_counted_but_not_the_rows_own_files(tmp_path):
    for half in ("train", "val", "test"):
        folder_of(tmp_path / "pictures" / half, 2, 6)
    for name in ("LICENSE", ".hidden", "names"):
        (tmp_path / "pictures" / name).write_text("c0\nc1\n")
    row = {**ROW, "splits": {"calib": 2, "select": 2}, "class_order": "names"}
    assert indexed(tmp_path, row)["left_out"] == {"outside train and val": 2}


def test_entries_of_an_archive_are_accounted_for(tmp_path):
    folder_of(tmp_path / "pictures" / "train", 2, 8)
    with tarfile.open(tmp_path / "pictures" / "val.tar", "w") as archive:
        for name, content in {
            "c0/a.png": encoded("PNG"), "./c0/b": encoded("JPEG"), "/c1/c.jfif": encoded("JPEG"), "c1/._c.jfif": b"x",
            "c1/.d/e.png": b"x", "c1/notes.txt": b"x", "c1/empty": b"", "c1/f.heic": b"x",
        }.items():  # fmt: skip
            add(archive, name, content)
        add(archive, "c0/a.png", encoded("PNG", "L"))  # unpacking leaves this one
        for name, kind, to in (("c1/l.png", tarfile.SYMTYPE, "/etc/passwd"), ("c1/h.png", tarfile.LNKTYPE, "c0/a.png")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, to
            archive.addfile(entry)
        entry = tarfile.TarInfo("c1/pipe.png")
        entry.type = tarfile.FIFOTYPE
        archive.addfile(entry)
    listing = indexed(tmp_path, {**ROW, "splits": {"calib": 2, "select": 2}, "val": "val.tar"})
    found = {source.path: source for source in index.files(listing, tmp_path / "data/index.json", "val")}
    assert sorted(found) == ["c0/a.png", "c0/b", "c1/c.jfif"]
    assert preprocess.load(found["c0/a.png"]).mode == "L"
    assert listing["left_out"] == {
        "empty": 1, "hidden": 2, "not an image": 1, "image of a format that is not read": 1,
        "link or other entry of an archive": 3,
    }  # fmt: skip


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def test_the_index_and_the_watch_see_the_same(tmp_path, pictures):
    """What the index leaves out as hidden, looped or no file moves nothing at parse time; what it reads does."""
    row = {**ROW, "path": str(pictures)}
    before = image_stamp.fingerprint(row)
    for make in (named("deeper/.hidden/a.png"), named("@eaDir/a.png"), fifo, link("loop", ".."), link("x", "gone")):
        make(pictures)
    assert image_stamp.fingerprint(row) == before
    named("deeper/a.png")(pictures)
    assert image_stamp.fingerprint(row) != before


def test_a_folder_that_goes_away_or_is_unreadable_is_no_traceback(tmp_path, pictures, monkeypatch):
    scan = os.scandir

    def failing(path):
        if str(path).endswith("c1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert image_stamp.fingerprint({**ROW, "path": str(pictures)})
    with pytest.raises(PermissionError, match=r"pictures/c1"):
        building.build(str(pictures), ROW, 0, hash_all=False)
