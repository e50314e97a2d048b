"""Take jobs to a host that has only Python and TensorRT (numpy, Pillow, CUDA bindings), and bring the files back.

    snakemake $(python workflow_scripts/device_kit.py needs results/LeViT-128S.fp16.xavier.json)     # here
    python workflow_scripts/device_kit.py pack --kit kit.tar results/LeViT-128S.fp16.xavier.json     # here
    tar -xf kit.tar && python3 workflow_scripts/device_kit.py run                                    # there
    python workflow_scripts/device_kit.py bring brought.tar                                          # here again

A choice (`auto`) takes all that it chooses from along. `run` records the target's identity, builds, evaluates and
times, with trtexec as well where the target's row says so, and goes on where an interrupted run stopped. `bring`
refuses files that were made of other inputs or recipes than those that are here now, and tells Snakemake of the rest.
"""

import argparse
import collections
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from configuration.tables import SCORED
from core import provenance
from core.files import UserError, canonical, one_line, read_json, sha256_file

KIT, BROUGHT, IDENTITY = "kit.json", "brought.tar", "{identity}"
Names = collections.namedtuple("Names", "dataset model precision target graph scores", defaults=(None, "accuracy"))


def tables_of(folder="."):
    """Return the checked tables of the project in a folder."""
    import yaml

    from configuration.tables import Tables

    with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as stream:
        return Tables.load(yaml.safe_load(stream), os.path.join(folder, "rules/schemas/config.schema.yaml"))


def names_of(result, tables):
    """Return the Names of results/{model}.{precision}.{target}.json; raise UserError where that is no valid result."""
    parts = Path(result).name.split(".")
    if len(parts) != 4 or parts[-1] != "json":
        raise UserError(f"{result} is no result: give results/{{model}}.{{precision}}.{{target}}.json")
    reason = tables.refusal(*parts[:3])
    if reason:
        raise UserError(reason)
    return Names(tables.active, *parts[:3])


def scored(result, tables):
    """Return the Names of what is scored for a result: its engine; of a choice, each candidate's on both splits."""
    names = names_of(result, tables)
    if not _chooses(result, tables):
        return [names]
    able = tables.candidates(names.model, names.precision, names.target)
    return [names._replace(precision=other, scores=folder) for other in able for folder in SCORED]


def inputs_of(names, tables):
    """Return {script: {argument: path, or list of paths}} of what a result's jobs on the target read."""
    folder, label = f"results/{names.dataset}", f"{names.model}.{names.precision}"
    data, index = f"{folder}/data/{names.model}", f"{folder}/data/index.json"
    model = {"--model": f"{folder}/models/{names.model}.json"}
    build = {"--onnx": tables.engine_graph(names.dataset, names.model, names.precision, names.target)}
    if tables.is_implicit(names.precision, names.target):
        build["--cache"] = f"{folder}/calibration/{label}.{names.target}.cache"
    if tables.has_plan(names.precision):
        build.update({"--plan": f"{folder}/plans/{label}.json", **model})
        build["--select"] = [f"{data}.select.u8", index, f"{folder}/select/{names.model}.torch.npy"]
    reference = f"{folder}/{names.scores}/{names.model}.torch.npy"
    evaluate = {"--images": f"{data}.{SCORED[names.scores]}.u8", "--index": index, "--reference": reference, **model}
    return {"build_engine.py": build, "evaluate_engine.py": evaluate}


def jobs_of(results, tables):
    """Return the jobs of some results, as the rules would run them: {"script", "arguments", "outputs", "target"}."""
    from snakefile.params import Recipes

    recipes = Recipes(tables)
    jobs = [job for result in results for names in scored(result, tables) for job in _jobs(names, tables, recipes)]
    jobs += [_in_turns(names_of(result, tables), tables, recipes) for result in results if _chooses(result, tables)]
    return list({canonical(job): job for job in jobs}.values())


def _jobs(names, tables, recipes):
    given, label = inputs_of(names, tables), f"{names.model}.{names.precision}.{names.target}"
    folder, common = f"results/{names.dataset}", {"--runtime": recipes.runtime(names), "--identity": IDENTITY}
    engine = {"--engine": f"{folder}/engines/{label}.engine"}
    split = {"--split": recipes.scored_split(names)}
    timed = {**engine, **common, "--recipe": recipes.timing(names)}
    steps = [
        ("fingerprint.py", {"--target": recipes.facts(names)}, {"--identity": f"results/targets/{names.target}.json"}),
        (
            "build_engine.py",
            {
                **given["build_engine.py"],
                **common,
                "--recipe": recipes.building(names),
                "--verification": recipes.verification(names),
            },
            {**engine, "--description": f"{folder}/engines/{label}.json"},
        ),
        (
            "evaluate_engine.py",
            {**engine, **given["evaluate_engine.py"], **common, **split, "--recipe": recipes.running(names)},
            {"--accuracy": f"{folder}/{names.scores}/{label}.json"},
        ),
        ("benchmark.py", timed, {"--benchmark": f"{folder}/benchmark/{label}.json"}),
    ]
    other = [("run_trtexec.py", timed, {"--trtexec": f"{folder}/trtexec/{label}.json"})]
    steps += other if tables.has_trtexec(names.target) else []
    return [_job(script, names.target, given, outputs) for script, given, outputs in steps]


def _chooses(result, tables):
    return names_of(result, tables).precision in tables.choosing()


def _in_turns(names, tables, recipes):
    """Return the job that times the finalists of a choice."""
    able = tables.candidates(names.model, names.precision, names.target)
    folder, paths = f"results/{names.dataset}", [f"{names.model}.{other}.{names.target}" for other in able]
    given = {
        "--engines": [f"{folder}/engines/{path}.engine" for path in paths],
        "--select": [f"{folder}/select/{path}.json" for path in paths],
        **{"--runtime": recipes.runtime(names), "--identity": IDENTITY, "--recipe": recipes.timing_in_turns(names)},
    }
    label = f"{names.model}.{names.precision}.{names.target}"
    output = {"--paired-benchmark": f"{folder}/paired_benchmark/{label}.json"}
    return _job("paired_benchmark.py", names.target, given, output)


def _job(script, target, given, outputs):
    arguments = [part for key, value in {**given, **outputs}.items() for part in (key, *_texts(value))]
    return {"script": script, "target": target, "arguments": arguments, "outputs": sorted(outputs.values())}


def _texts(value):
    """Return a value as the texts of an argument: several for a list of paths, one for any other."""
    return value if isinstance(value, list) else [value if isinstance(value, str) else canonical(value)]


def needs(results, tables):
    """Return the sorted paths that the jobs of some results read."""
    wanted = [names for result in results for names in scored(result, tables)]
    read = [given for names in wanted for given in inputs_of(names, tables).values()]
    return sorted({path for given in read for value in given.values() for path in _texts(value)})


# The three steps


def pack(results, kit):
    """Write a tar of the jobs of some results, what they read, and their code."""
    from snakefile.params import code

    tables = tables_of()
    jobs, read = jobs_of(results, tables), needs(results, tables)
    missing = [path for path in read if not os.path.exists(path)]
    if missing:
        raise UserError(f"{len(missing)} files are not there yet: run snakemake {' '.join(missing)}")
    provenance.check_all(read)
    runtimes = {tables.runtime_file(job["target"]) for job in jobs}
    scripts = {path for job in jobs for runtime in runtimes for path in code(job["script"], runtime)}
    described = {"results": list(results), "jobs": jobs, "inputs": {path: sha256_file(path) for path in read}}
    with tarfile.open(kit, "w") as archive:
        _add_text(archive, KIT, json.dumps(described, indent=1, sort_keys=True))
        for path in sorted({*read, *provenance.recorded(read), *scripts, *code("device_kit.py")}):
            archive.add(path)
    print(f"{kit}: {len(jobs)} jobs, {os.path.getsize(kit) / 1e6:.1f} MB")


def run():
    """Do the jobs of an unpacked kit that are not done, in this interpreter, and write what they made to a tar."""
    kit, failed = described(KIT, _text(KIT)), []
    environment = {"LEVIT_TIMING_CACHES": ".cache/timing", "LEVIT_BENCHMARKS": ".cache/benchmarks", **os.environ}
    python = os.environ.get("LEVIT_PYTHON") or sys.executable
    for job in kit["jobs"]:
        if all(os.path.exists(path) for path in job["outputs"]):
            continue
        arguments = [_identity(job["target"]) if text == IDENTITY else text for text in job["arguments"]]
        print(f"{job['script']}: {job['outputs'][0]}", flush=True)
        log = f"results/logs/{os.path.basename(job['outputs'][0])}.{job['script']}.log"
        command = [python, f"workflow_scripts/{job['script']}", *arguments, "--log", log]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(job["outputs"][0])
    made = [path for job in kit["jobs"] for path in job["outputs"] if os.path.exists(path)]
    made = sorted({*made, *provenance.recorded(made)})
    with tarfile.open(BROUGHT, "w") as archive:
        _add_text(archive, KIT, json.dumps({**kit, "made": made}, indent=1, sort_keys=True))
        for path in made:
            archive.add(path)
    print(f"{BROUGHT}: {len([path for path in made if not provenance.is_record(path)])} files")
    if failed:
        raise UserError(f"{len(failed)} jobs failed, the first for {failed[0]}: see results/logs/")


def _identity(target):
    path = f"results/targets/{target}.json"
    return canonical(read_json(path)) if os.path.exists(path) else "null"


def _text(path):
    """Return the text of a kit's description in this folder; raise UserError where there is none."""
    if not os.path.exists(path):
        raise UserError(f"there is no {path} in {os.getcwd()}: unpack a kit here (tar -xf kit.tar)")
    with open(path, "rb") as stream:
        return stream.read()


def described(path, text):
    """Return the description of a kit, from its bytes in a file; raise UserError for another's or an older one."""
    try:
        kit = json.loads(text.decode("utf-8"))
        jobs = [(job["script"], job["target"], job["arguments"], job["outputs"][0]) for job in kit["jobs"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        jobs = None
    if not jobs or not isinstance(kit.get("inputs"), dict) or not isinstance(kit.get("results"), list):
        raise UserError(f"{path} is not what `device_kit.py pack` of this version describes: pack another kit")
    return kit


def bring(path):
    """Unpack what a target made, if of the inputs and recipes that are here, and tell Snakemake that it is made."""
    os.makedirs(".cache", exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="brought-", dir=".cache") as staging:
        kit, made = _unpack(path, staging)
        staged = [os.path.join(staging, name) for name in made if not provenance.is_record(name)]
        provenance.check_all(staged, f"fetch {path} again; where it is so on the target, delete it there and run again")
        for name in made:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        provenance.take({os.path.join(staging, name): name for name in made})
    made = [name for name in made if not provenance.is_record(name)]
    tell_snakemake(made)
    print(f"{len(made)} files; now: snakemake {' '.join(kit['results'])}")


def _unpack(path, folder):
    """Unpack what a kit's jobs made into a folder; return (the kit's description, the sorted names of the files)."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            if KIT not in members:
                raise UserError(f"{path} has no {KIT}: give the {BROUGHT} that `device_kit.py run` wrote")
            kit = described(f"{path}: {KIT}", archive.extractfile(members[KIT]).read())
            _check_unchanged(kit)
            outputs = {name for job in kit["jobs"] for name in job["outputs"]}
            made = sorted(members.keys() & {*outputs, *map(provenance.beside, outputs)})
            if made != kit.get("made", made):
                raise UserError(f"{path} lacks files that {KIT} in it names: fetch it again from the target")
            for name in made:
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                with archive.extractfile(members[name]) as source, open(os.path.join(folder, name), "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is no whole tar ({error}): fetch it again from the target") from None
    return kit, made


def _check_unchanged(kit):
    now = {canonical(job) for job in jobs_of(kit["results"], tables_of())}
    for job in kit["jobs"]:
        if canonical(job) not in now:
            raise UserError(f"config.yaml has changed since the kit was packed ({job['outputs'][0]}): pack another")
    for path, digest in kit["inputs"].items():
        if not os.path.exists(path) or sha256_file(path) != digest:
            raise UserError(f"{path} is not what the kit was packed with: pack another")


def tell_snakemake(outputs):
    """Let Snakemake record the brought files as made by today's rules, so that a later change makes them stale."""
    command = [sys.executable, "-m", "snakemake", "--touch", "--force", "--no-hooks", "--quiet", "--", *outputs]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError(f"snakemake --touch failed: {done.stdout.decode('utf-8', 'replace').strip()[-300:]}")


def _add_text(archive, name, text):
    data = text.encode("utf-8")
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing, needing = commands.add_parser("pack"), commands.add_parser("needs")
    packing.add_argument("--kit", default="kit.tar")
    for command in (packing, needing):
        command.add_argument("results", nargs="+")
    commands.add_parser("run")
    commands.add_parser("bring").add_argument("brought")
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.results, args.kit)
    elif args.command == "needs":
        print(" ".join(needs(args.results, tables_of())))
    elif args.command == "run":
        run()
    else:
        bring(args.brought)


if __name__ == "__main__":
    one_line(main)
