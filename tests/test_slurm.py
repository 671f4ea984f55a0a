"""The page *Running it anywhere* on a real Slurm: its own scripts, on a cluster of two nodes.

Both nodes are this machine (Slurm allows that), with files for GPUs. Where the scripts
name what a test has not got or would wait for, ``page`` puts in what it has.
"""

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dask_jobqueue
import pytest

from nbrepro import cli
from nbrepro.records.ledger import Ledger

PAGE = Path(__file__).parents[1] / "book" / "running.md"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATIENCE = 100  # seconds until a test gives up

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {size}
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {size}
PartitionName=gpu Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""
SIZE = "CPUs=16 RealMemory=64000 Gres=gpu:4"


def wait(until: Callable[[], bool], what: Callable[[], str]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < give_up, f"waited in vain\n{what()}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach a cluster of this test's own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no Slurm here (no {', '.join(missing)}): install slurmctld, slurmd, munge")
    with tempfile.TemporaryDirectory(prefix="slurm") as name, ExitStack() as stack:
        folder = Path(name)  # short: sockets have paths of at most 107 letters
        settings = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=folder, ports=free_ports(3), size=SIZE, **settings)
        )
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
        for number in range(4):
            (folder / f"gpu{number}").touch()
        (folder / "state").mkdir()
        folder.chmod(0o755)  # munge asks that all can reach its socket
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "PATH": path,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
        }

        def start(*command: str) -> None:
            log = stack.enter_context((folder / f"{command[0]}-{command[-1]}.log").open("w"))
            program = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(program.wait)
            stack.callback(program.terminate)

        def said() -> str:
            return "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))

        def idle() -> bool:
            sinfo = ["sinfo", "--noheader", "--Node", "--format", "%T"]
            seen = subprocess.run(sinfo, env=environment, capture_output=True, text=True)
            return seen.stdout.split() == ["idle", "idle"]

        files = [f"--{kind}={folder}/munge.{kind}" for kind in ("socket", "pid-file", "seed-file")]
        start("munged", "--foreground", *files, f"--key-file={key}", "--force")
        try:
            wait((folder / "munge.socket").exists, said)
            start("slurmctld", "-D")
            for node in ("one", "two"):
                start("slurmd", "-D", "-N", node)
            wait(idle, said)
        except AssertionError as error:  # of this machine, not of the project
            pytest.skip(f"Slurm is installed and does not start here: {error}")
        yield environment


def page(opening: str, changes: dict[str, str]) -> str:
    """The page's script that begins so, with ``changes``, each of which must apply."""
    blocks = re.findall(r"```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (script,) = [block for block in blocks if block.startswith(opening)]
    for before, after in changes.items():
        assert before in script, f"the page no longer says {before!r}"
        script = script.replace(before, after)
    return str(script)


RUN = "run training_only_batchnorm --profile smoke --device cpu"


def records(folder: Path) -> list[dict[str, object]]:
    found = Ledger(folder / cli.SMOKE).scan()[0]
    assert {record.status for record in found} == {"completed"}
    return [record.provenance for record in found]


def test_a_sweep_outlives_its_jobs(slurm: dict[str, str], tmp_path: Path) -> None:
    """All jobs are cancelled in the middle of a run; new ones take their place and go on."""
    script = page(
        "# sweep.py",
        {
            'memory="16GB"': 'memory="2GB"',
            "minimum_jobs=8, maximum_jobs=8": "minimum_jobs=2, maximum_jobs=2",
            "run all --profile full --device cuda": RUN,
            "cluster.wait_for_workers(1)": "cluster.wait_for_workers(1, timeout=100)",
        },
    )
    (tmp_path / "sweep.py").write_text(script)
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "sweep.py"]
        sweep = subprocess.Popen(command, cwd=tmp_path, env=slurm, stdout=log, stderr=log)
        try:
            wait(lambda: any(tmp_path.glob("runs/smoke/runs/*.pt")), (tmp_path / "log").read_text)
            subprocess.run(["scancel", "--user", getpass.getuser()], env=slurm, check=True)
            status = sweep.wait(PATIENCE)
        finally:
            sweep.kill()
            subprocess.run(["scancel", "--user", getpass.getuser()], env=slurm, check=True)
    assert status == 0
    assert "0 left to do" in (tmp_path / "log").read_text()
    found = records(tmp_path)
    assert len(found) == 3
    assert any(how["resumed_at_epoch"] for how in found)


def test_one_network_on_two_nodes(slurm: dict[str, str], tmp_path: Path) -> None:
    script = page(
        "#!/bin/bash\n#SBATCH --nodes=2",
        {
            "--time=08:00:00": "--time=00:10:00",
            "--nproc_per_node 4": "--nproc_per_node 1",
            "$first:29500": f"127.0.0.1:{free_ports(1)[0]}",  # no DNS knows these nodes
            "run ACC-4 --profile full --time-budget 7.5h": RUN,
        },
    )
    (tmp_path / "train.sh").write_text(script)
    job = subprocess.run(
        ["sbatch", "--wait", "--output=log", "train.sh"], cwd=tmp_path, env=slurm, timeout=PATIENCE
    )
    assert job.returncode == 0, (tmp_path / "log").read_text()
    assert [how["processes"] for how in records(tmp_path)] == [2, 2, 2]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # left by distributed when it closes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_job_script() -> None:
    """The job that the documented settings submit: one GPU, one run at a time, a timely end."""
    settings = re.search(r"SLURMCluster\((.*?)\n    \) as", page("# sweep.py", {}), re.DOTALL)
    assert settings
    given = eval(f"dict({settings[1]}\n)")
    with dask_jobqueue.SLURMCluster(
        **given, scheduler_options={"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    ) as cluster:
        script = cluster.job_script()
    *head, command, _ = script.split("\n")
    assert head == [
        "#!/usr/bin/env bash",
        "",
        "#SBATCH -J dask-worker",
        "#SBATCH -p gpu",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --mem=15G",
        "#SBATCH -t 01:00:00",
        "#SBATCH --gres=gpu:1",
        "",
    ]
    assert re.fullmatch(
        r"\S+ -m distributed\.cli\.dask_worker tcp://\S+ --name dummy-name --nthreads 1 "
        r"--memory-limit 14\.90GiB --nanny --death-timeout 60 "
        r"--lifetime 50m --lifetime-stagger 5m",
        command,
    )
