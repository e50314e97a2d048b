"""Every wrong configuration is refused in one line that names the key; a right one means the same however written."""

import copy
import json
import os

import pytest
import yaml

from configuration import checks, yaml_text
from core.files import UserError
from fuzz.configurations import PARSED, TEXT, TEXTS, VALUES, changed
from workflow import ON_BOTH, REPOSITORY, SNAKEMAKES, Workflow

SCHEMA = REPOSITORY / "rules/schemas/config.schema.yaml"
PARSED_SCHEMA = yaml.safe_load(SCHEMA.read_text())


def load(config):
    """Check a parsed configuration as the Snakefile does."""
    return checks.checked(config, PARSED_SCHEMA)


def read(path):
    """Read a configuration file as the Snakefile does: as text, as Snakemake parses it, as tables."""
    yaml_text.check(path)
    text = path.read_text(encoding="utf-8")
    try:
        return load(json.loads(text))
    except ValueError:
        return load(yaml.load(text, Loader=yaml.FullLoader))


def test_there_are_enough_of_them():
    assert len(VALUES) + len(TEXTS) >= 100


@pytest.mark.parametrize(
    ("keys", "value", "named"), VALUES, ids=[f"{'.'.join(map(str, keys))}={value!r}"[:60] for keys, value, _ in VALUES]
)
def test_a_wrong_value_is_named_in_one_line(keys, value, named):
    with pytest.raises(UserError) as problem:
        load(changed(keys, value))
    assert named in str(problem.value) and "\n" not in str(problem.value) and len(str(problem.value)) < 400


@pytest.mark.parametrize("name", TEXTS)
def test_a_wrong_text_is_named_in_one_line(name, tmp_path):
    text, named = TEXTS[name]
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as problem:
        read(path)
    assert named in str(problem.value) and "\n" not in str(problem.value) and len(str(problem.value)) < 400


def test_both_lines_of_an_equal_key_are_named(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 0\nmodels:\n  a: {size: 1}\n  b: {size: 1}\n  a: {size: 2}\n")
    with pytest.raises(UserError, match=r"c.yaml: the key models.a is there twice \(lines 3 and 5\): rename or remove"):
        yaml_text.check(tmp_path / "c.yaml")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "dangling"])
def test_a_configuration_that_is_no_file(tmp_path, kind):
    path = tmp_path / "config.yaml"
    {"missing": bool, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling": lambda: path.symlink_to("x")}[
        kind
    ]()
    with pytest.raises(UserError, match="config.yaml is (not there|not a file)"):
        yaml_text.check(path)


RIGHT = {  # other ways to write the same
    "a byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "lines of Windows": TEXT.replace("\n", "\r\n").encode(),
    "no last line break": TEXT.rstrip("\n").encode(),
    "JSON": json.dumps(PARSED).encode(),
    "JSON with tabs": json.dumps(PARSED, indent="\t").encode(),
    "sorted": yaml.safe_dump(PARSED).encode(),
    "one line": yaml.safe_dump(PARSED, default_flow_style=True, width=10**6).encode(),
    "quoted numbers": TEXT.replace("seed: 0", "seed: '0'", 1).replace("clip: 1.0", "clip: '1'").encode(),
    "a number without its fraction": TEXT.replace("clip: 1.0", "clip: 1").replace("budget: 1.0", "budget: 1").encode(),
    "an exponent": TEXT.replace("learning_rate: 0.001\n", "learning_rate: 1e-3\n").encode(),
    "yes and on": TEXT.replace("typed: true", "typed: yes").replace("trtexec: true", "trtexec: on").encode(),
    "an anchor": TEXT.replace("mean: [0.485", "mean: &mean [0.485", 1)
    .replace("mean: [0.485, 0.456, 0.406]", "mean: *mean")
    .encode(),
    "merged rows": TEXT.replace("  fp32:\n    compute: fp32", "  fp32: &fp32\n    compute: fp32", 1)
    .replace("  bf16:\n    compute: bf16", "  bf16:\n    <<: *fp32\n    compute: bf16", 1)
    .encode(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_written_otherwise_means_the_same(name, tmp_path):
    (tmp_path / "config.yaml").write_bytes(RIGHT[name])
    assert read(tmp_path / "config.yaml").config == load(copy.deepcopy(PARSED)).config


def test_values_of_a_command_line():
    yaml_text.check_all([], ["x", "--config", "seed=3", "targets={cpu: {threads: 010}}", "-n", "a={b: 1, b: 2}"])
    with pytest.raises(UserError, match="--config targets: the key cpu.threads is there twice"):
        yaml_text.check_all([], ["--config", "targets={cpu: {threads: 1, threads: 2}}", "--quiet"])
    assert load(changed(("store",), "null")).config["store"] is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("s3://AKIDEXAMPLE:secret@team/levit", "s3://team/levit: give a folder, or s3://bucket/prefix without"),
        ("s3://", "s3://"),
        ("https://team.example/levit?token=secret", "https://team.example/levit?token=***"),
        ("{at: 's3://team', local: 's3://team/tier'}", "store.local: s3://team/tier: a local tier is a folder"),
        ("{local: .cache/store}", "the key at is missing"),
        ("{at: /mnt/store, local: /mnt/other/../store/}", "store.local: /mnt/other/../store/ is the store itself"),
        ("{at: 's3://team', local_gb: 0}", "is not above 0"),
    ],
)
def test_where_a_store_cannot_be(value, wrong):
    with pytest.raises(UserError) as problem:
        load(changed(("store",), yaml.safe_load(value)))
    assert wrong in str(problem.value) and "secret" not in str(problem.value)


@pytest.mark.parametrize("value", ["s3://team", "s3://team-1/a/b/", "/mnt/store", "{at: 's3://team/x', local: ~/tier}"])
def test_where_a_store_can_be(value):
    assert "at" in load(changed(("store",), yaml.safe_load(value))).store


# Keys written with their defaults


def defaults(schema, where=()):
    """Yield (path of keys, default) of all defaults in the schema; `*` stands for the rows of a table."""
    while "$ref" in schema:
        schema = {
            **PARSED_SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    if "default" in schema and where:
        yield where, schema["default"]
    for key, inner in schema.get("properties", {}).items():
        yield from defaults(inner, (*where, key))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from defaults(schema["additionalProperties"], (*where, "*"))


def places(config, where):
    """Yield (table, key) for each row that a path of keys with `*` reaches."""
    if len(where) == 1:
        yield config, where[0]
        return
    for key in list(config) if where[0] == "*" else [where[0]]:
        if isinstance(config.get(key), dict):
            yield from places(config[key], where[1:])


DEFAULTS = list(defaults(PARSED_SCHEMA))


@pytest.mark.parametrize(("where", "default"), DEFAULTS, ids=[".".join(where) for where, _ in DEFAULTS])
def test_a_key_written_with_its_default_changes_nothing(where, default):
    without, written = copy.deepcopy(PARSED), copy.deepcopy(PARSED)
    for table, key in places(without, where):
        table.pop(key, None)
    for table, key in places(written, where):
        table[key] = copy.deepcopy(default)
    assert json.dumps(load(without).config, sort_keys=True) == json.dumps(load(written).config, sort_keys=True)


# Rows that are not needed


SHORT = ["datasets={digits: {splits: {calib: 64}}}"]


@pytest.fixture(scope="module", params=SNAKEMAKES)
def workflow(request, tmp_path_factory):
    if not request.param.exists():
        pytest.skip(f"{request.param} is not there: `make test` makes it")
    return Workflow.fresh(tmp_path_factory.mktemp("configurations") / "run", snakemake=request.param)


@ON_BOTH("workflow")
def test_a_row_that_is_not_needed_refuses_nothing(workflow):
    plan = workflow.plan("results/LeViT-tiny.fp32.cpu.json", options=["--config", *SHORT])
    assert "build_engine fp32.cpu" in plan
    status, output = workflow.run("-n", "results/LeViT-tiny.int8_qat.cpu.json", "--config", *SHORT)
    assert status == 1 and output.strip().splitlines()[-1] == (
        "error: int8_qat on digits: precisions.int8_qat.calibration.images is 512, "
        "but datasets.digits.splits.calib gives 64"
    )


def test_rows_that_are_listed_and_cannot_be_are_named_and_skipped(workflow):
    status, output = workflow.run("-n", "--config", *SHORT)
    assert status == 0
    skipped = [line for line in output.splitlines() if line.startswith("skipped: int8")]
    assert [line.split()[1] for line in skipped] == ["int8_ptq", "int8_qat", "int8_dla"]
    assert "precision=int8" not in output


def test_what_is_chosen_from_and_cannot_be_is_named(workflow):
    status, output = workflow.run("-n", "results/LeViT-tiny.auto.cpu.json", "--config", *SHORT)
    assert status == 0 and "skipped: int8_qat on digits: precisions.int8_qat.calibration.images is 512" in output
    setting = "precisions={auto: {choose: [fp32, int8_qat]}}"
    status, output = workflow.run("-n", "results/LeViT-tiny.auto.cpu.json", "--config", *SHORT, setting)
    assert status == 1 and "error: auto on cpu: it chooses from int8_qat on digits: " in output


def test_a_runtime_that_is_not_there_refuses_its_target_alone(workflow):
    setting = "targets={mine: {runtime: mine, graph: cpu, precisions: [fp32]}}"
    assert workflow.plan("results/LeViT-tiny.fp32.cpu.json", options=["--config", setting])
    status, output = workflow.run("-n", "results/LeViT-tiny.fp32.mine.json", "--config", setting)
    assert status == 1 and "error: fp32 on mine: targets.mine.runtime: there is no workflow_scripts/runtimes/" in output


IN_SNAKEMAKE = ["a key twice", "latin-1", "nothing", "a tab", "infinity", "aliases of aliases", "deep"]


@pytest.mark.parametrize("name", IN_SNAKEMAKE)
def test_a_wrong_text_is_one_line_of_snakemake_too(workflow, name, tmp_path):
    text, named = TEXTS[name]
    old = workflow.path("config.yaml").read_bytes()
    try:
        workflow.path("config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        status, output = workflow.run("-n", "results/LeViT-tiny.fp32.cpu.json")
    finally:
        workflow.path("config.yaml").write_bytes(old)
    last = output.strip().splitlines()[-1]
    assert status == 1 and last.startswith("error: config.yaml") and named in last and "Traceback" not in output


def test_a_file_of_configfile_is_read_as_strictly(workflow):
    workflow.path("more.yaml").write_text("seed: 1\nseed: 2\n")
    status, output = workflow.run("-n", "--configfile", "more.yaml", "--", "results/LeViT-tiny.fp32.cpu.json")
    assert status == 1 and "more.yaml: the key seed is there twice (lines 1 and 2)" in output.splitlines()[-1]


def test_the_passes_that_may_be_named_are_those_there_are():
    from graph.passes import PASSES

    assert set(PARSED_SCHEMA["$defs"]["pass"]["enum"]) == set(PASSES)
