"""A Slurm cluster of one node, this machine, from Debian's packages `slurm-wlm` and `munge`; for tests.

Everything it writes is in one folder, and its daemons end with the block. There is no accounting, as on small clusters.
"""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rp_models.training.ports import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,requeue_setup_env_fail
JobRequeue=1
ReturnToService=2
KillWait=5
MessageTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    absent = [name for name in (*DAEMONS, "srun") if _path(name) is None]
    if absent:
        return f"{', '.join(absent)} not found; apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "slurmd starts jobs for root alone"


@contextmanager
def single_node(folder: Path, cpus: int = 4) -> Iterator[Mapping[str, str]]:
    """A cluster with so many CPUs, whatever the machine has; gives the environment in which its commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    values = {"host": platform.node(), "user": "root", "folder": folder, "cpus": cpus}
    ports = {"controller_port": free_port(), "node_port": free_port()}
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(**values, **ports))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    files |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={file}" for name, file in files.items())],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", platform.node()],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            program = str(_path(command[0]))
            with (folder / f"{command[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen([program, *command[1:]], env=environment, stdout=log, stderr=log))
            time.sleep(0.5)
        _wait_for_node(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True, check=False)
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def _wait_for_node(environment: Mapping[str, str], folder: Path) -> None:
    for _ in range(60):
        said = subprocess.run(["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, check=False)
        if said.stdout.strip() == b"idle":
            return
        time.sleep(0.5)
    raise RuntimeError(f"the node did not come up; see the logs in {folder}")


def _path(name: str) -> str | None:
    """Where a program is; daemons are in folders that users do not search."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
