"""Record the identity of a target: runtime, version, device; no state that changes (clocks, power, free memory)."""

from core.command import Command, Job
from core.files import UserError, write_json
from devices import probe


def run(args: Job) -> None:
    import runtimes

    if not isinstance(args.target, dict) or "runtime" not in args.target:
        raise UserError("--target: a row of `targets` with its runtime is needed")
    runtime = runtimes.load(args.target["runtime"])
    reason = probe.mismatch(args.target)
    if reason:
        raise UserError(f"this machine is not the target: {reason}")
    write_json(args.identity, runtimes.fingerprint(runtime, args.target))


def command() -> Command:
    c = Command(__file__, __doc__, modules=lambda args: [f"runtimes/{args.target['runtime']}.py"])
    return c.json_param("--target", help="JSON row of `targets`").output("--identity")


if __name__ == "__main__":
    command().run(run)
