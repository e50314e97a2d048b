"""The Dockerfiles: their form, pins and what they copy; `make lint` has hadolint read them. None is built here."""

import json
import re

import pytest

from workflow import REPOSITORY

FILES = sorted((REPOSITORY / "containers").glob("*.Dockerfile"))
INSTRUCTIONS = {"ARG", "FROM", "LABEL", "ENV", "RUN", "USER", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
IGNORED = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()


def instructions(path):
    """Return [(instruction, its argument)] of a Dockerfile, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


@pytest.fixture(params=FILES, ids=lambda path: path.name.split(".")[0])
def steps(request):
    return instructions(request.param)


def of(steps, name):
    return [argument for word, argument in steps if word == name]


def test_there_is_one_for_each_kind_of_machine():
    assert [path.name for path in FILES] == ["gpu.Dockerfile", "jetpack5.Dockerfile", "jetpack6.Dockerfile"]
    assert all(f"containers/{path.name}" in (REPOSITORY / "Makefile").read_text() for path in FILES), (
        "and each is linted"
    )


def test_form(steps):
    assert {word for word, _ in steps} <= INSTRUCTIONS and of(steps, "USER") == ["levit"]
    assert all(folder.startswith("/") for folder in of(steps, "WORKDIR"))
    assert all(isinstance(json.loads(words), list) for name in ("ENTRYPOINT", "CMD") for words in of(steps, name))
    assert 'built="never' in of(steps, "LABEL")[0]
    base = of(steps, "FROM")[0]
    assert base == "${BASE}" and of(steps, "ARG") == ["BASE"] or re.search(r":\d+\.\d+\.\d+[\w.-]*$", base), base


def test_packages_of_the_system_leave_nothing_behind(steps):
    for command in (command for command in of(steps, "RUN") if "apt-get" in command):
        assert command.startswith("apt-get update && apt-get install --yes --no-install-recommends ")
        assert command.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_python_packages_are_those_that_are_pinned(steps):
    installs = [part for command in of(steps, "RUN") for part in command.split("&&") if "pip install" in part]
    for install in installs:
        (pins,) = re.findall(r"-r (\S+)", install)
        assert (REPOSITORY / pins).is_file() and install.strip().endswith(pins), "from a file of envs/ and nothing else"
    assert installs, "nothing is installed"


def test_what_is_copied_exists_before_it_is_used(steps):
    copied = set()
    for word, argument in steps:
        if word == "COPY":
            *sources, _ = [part for part in argument.split() if not part.startswith("--")]
            assert all((REPOSITORY / source).exists() for source in sources)
            copied |= set(sources)
        if word == "RUN":
            assert all({name, "envs"} & copied for name in re.findall(r"-r (\S+)", argument))
            assert "make" not in argument.split()[:1] or "Makefile" in copied


def test_a_jetsons_base_has_its_pins_release():
    for path in FILES[1:]:
        (generation,) = re.findall(r"jetpack(\d)", path.name)
        text = path.read_text(encoding="utf-8")
        assert f"l4t-jetpack:r{ {'5': 35, '6': 36}[generation] }." in text and f"envs/jetson-jp{generation}.txt" in text
        assert "--system-site-packages" in text, "TensorRT is the image's"


def test_nothing_private_or_large_is_sent():
    assert {".git", ".cache", "results", ".venv*"} <= set(IGNORED)
