"""A cluster for tests: a real slurmctld, munged, and slurmd processes that are its nodes; here, without root.

The programs are those that `make slurm` unpacked, or the installed ones. Nothing is read from /etc/slurm: SLURM's
commands are scripts in `bin` that name this cluster's configuration, also inside of jobs.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from workflow import REPOSITORY

UNPACKED = REPOSITORY / ".cache/slurm"  # by `make slurm`
LIBRARIES = UNPACKED / "usr/lib/x86_64-linux-gnu"
PLUGINS = next(
    (path for path in (LIBRARIES / "slurm-wlm", Path("/usr/lib/x86_64-linux-gnu/slurm-wlm")) if path.is_dir()), None
)
PLACES = [*(str(UNPACKED / place) for place in ("usr/bin", "usr/sbin")), os.environ["PATH"], "/usr/sbin"]
COMMANDS = ["sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr"]
CONFIGURATION = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
PluginDir={plugins}
PlugStackConfig={folder}/plugstack.conf
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout={timeout}
SlurmctldTimeout=10
MessageTimeout=5
KillWait=2
MinJobAge=3600
"""
NODE = """NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} \\
    RealMemory={memory} Feature={name}
"""


def program(*names):
    """Return the path of the first of several programs that is there, or None."""
    return next(filter(None, (shutil.which(name, path=":".join(PLACES)) for name in names)), None)


def missing():
    """Return what this machine lacks for a cluster, or nothing."""
    wanted = [("slurmctld-wlm", "slurmctld"), ("slurmd-wlm", "slurmd"), ("munged",), ("sbatch",)]
    return [names[-1] for names in wanted if not program(*names)]


class Cluster:
    """A cluster whose files are below `folder`; `bin` is the folder of its commands, for PATH.

    nodes: {name: cores}; partitions: {name: names of nodes}, the first of which is the default; gpus: names of nodes
    of which the controller is told that they have a GPU: a node denies it when it registers again, after about six
    times `timeout`, the seconds in which it must answer.
    """

    def __init__(self, folder, nodes=None, partitions=None, memory=8000, timeout=10, gpus=()):
        self.gpus, self.folder, self.nodes = gpus, Path(folder), nodes or {"n1": 1, "n2": 1}
        self.partitions = partitions or {"main": list(self.nodes)}
        self.bin, self.processes = self.folder / "bin", {}
        for name in ("munge", "state", "bin"):
            (self.folder / name).mkdir(parents=True)
        self._describe(memory, timeout)
        for command in COMMANDS:
            self._script(command)
        self._munged()
        self.boot()

    def _describe(self, memory, timeout):
        ports, host = _free_ports(1 + len(self.nodes)), socket.gethostname()
        given = {"folder": self.folder, "host": host, "ports": ports, "user": getpass.getuser(), "plugins": PLUGINS}
        text = CONFIGURATION.format(**given, timeout=timeout) + ("GresTypes=gpu\n" if self.gpus else "")
        for (name, cores), port in zip(self.nodes.items(), ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port, cores=cores, memory=memory)
        for number, (name, members) in enumerate(self.partitions.items()):
            text += f"PartitionName={name} Nodes={','.join(members)} Default={'NO' if number else 'YES'} State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "plugstack.conf").touch()

    @property
    def variables(self):
        """Return the environment of SLURM's programs."""
        libraries = f"{LIBRARIES}:{PLUGINS}"
        return {**os.environ, "LD_LIBRARY_PATH": libraries, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def _script(self, command):
        """Write a command that knows this cluster; what a job of it runs has its own libraries again."""
        path, set_here = self.bin / command, ("LD_LIBRARY_PATH", "SLURM_CONF")
        values = " ".join(f'{name}="{self.variables[name]}"' for name in set_here)
        path.write_text(f'#!/bin/sh\n{values} exec {program(command)} "$@"\n')
        path.chmod(0o755)

    def _start(self, name, *words):
        log = (self.folder / f"{name}.out").open("a")
        self.processes[name] = subprocess.Popen(
            list(map(str, words)), env=self.variables, stdout=log, stderr=log, start_new_session=True
        )

    def _munged(self):
        place = self.folder / "munge"
        place.chmod(0o711)
        (place / "key").write_bytes(secrets.token_bytes(128))
        (place / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={place / name}" for option, name in files.items()]
        self._start("munged", program("munged"), "--foreground", "--force", *options)
        wait(lambda: (place / "socket").exists())

    def boot(self):
        """Start the controller and each node that is not at work."""
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)
        wait(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), 30, self.tell)
        for name in self.gpus:
            self.ask("scontrol", "update", f"nodename={name}", "gres=gpu:1")

    def start_controller(self):
        self._start("slurmctld", program("slurmctld-wlm", "slurmctld"), "-D", "-f", self.folder / "slurm.conf")

    def start_node(self, name):
        daemon, stepd = program("slurmd-wlm", "slurmd"), program("slurmstepd-wlm", "slurmstepd")
        self._start(name, daemon, "-D", "-N", name, "-f", self.folder / "slurm.conf", "-d", stepd)

    # What goes on

    def ask(self, command, *words):
        """Return what one of SLURM's commands prints, "" where it fails."""
        done = subprocess.run([self.bin / command, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def states(self):
        """Return {node: its state}."""
        return dict(line.split() for line in self.ask("sinfo", "-N", "-h", "-o", "%N %t").splitlines())

    def jobs(self, state="all", form="%i"):
        """Return a line of squeue for each job in a state."""
        return self.ask("squeue", "--noheader", f"--states={state}", f"--format={form}").splitlines()

    def tell(self):
        """Return the end of the logs, for a failure."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in logs)

    # Faults

    def resume(self):
        """Let jobs run again on nodes that the controller drained."""
        for name, state in self.states().items():
            if state.startswith("dr"):  # drng while a job ends there
                self.ask("scontrol", "update", f"nodename={name}", "state=resume")

    def configure(self, old, new):
        """Replace a line of the controller's configuration."""
        path = self.folder / "slurm.conf"
        path.write_text(path.read_text().replace(f"\n{old}\n", f"\n{new}\n"))
        self.ask("scontrol", "reconfigure")

    def kill(self, name):
        """End slurmctld, munged or a node's slurmd at once; a node's jobs go with it."""
        process = self.processes.pop(name)
        victims = _descendants(process.pid) if name in self.nodes else []
        victims += self._steps(name)
        for number in [process.pid, *victims]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait(10)

    def _steps(self, name):
        """Return the processes of a node's jobs: slurmstepd leaves slurmd, and all that it starts has its name."""
        mark, found = f"SLURMD_NODENAME={name}".encode(), []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if name in self.nodes and mark in entry.read_bytes().split(b"\0") and self._is_ours(entry.parent):
                    found.append(int(entry.parent.name))
        return found

    def _is_ours(self, process):
        return str(self.folder).encode() in (process / "environ").read_bytes()

    def close(self):
        """End the jobs, the nodes, the controller and munged."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([self.bin / "scancel", f"--user={getpass.getuser()}"], timeout=10)
        for name in [*self.nodes, "slurmctld", "munged"]:
            if name in self.processes:
                self.kill(name)


def _descendants(number):
    found = []
    for task in Path(f"/proc/{number}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait(holds, seconds=20, tell=lambda: ""):
    """Wait until something holds; return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {tell()}")
