"""One job of the graph: its environment, its log, its GPU, and its end when the run that started it is gone."""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lib import config, store

KERNEL_TRIES = 3  # of a notebook whose kernel did not start; a cell that raised is never run again
JOBS_PER_GPU = 4


def workspace(scale: str) -> Path:
    """Folder of the engine's own files: locks, the jobs' logs, the list of what ran."""
    folder = config.cache_dir(scale) / "engine"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    return folder


def environment(scale: str, threads: int = 1) -> dict[str, str]:
    """Variables of every job: the package importable, bars silent, training allowed however long, threads set, nothing
    written to the home folder; the user's own folders as they are named where the run began.

    The kernel is this environment's own, whatever kernels the user has elsewhere.
    """
    home = (config.cache_dir(scale).parent / "home").absolute()
    return {
        "PYTHONPATH": str(config.ROOT),
        "PYTHONNOUSERSITE": "1",
        "NEURONS_QUIET": "1",
        "NEURONS_TRAIN": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "NUMBA_NUM_THREADS": str(threads),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PATH": "",
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "NUMBA_CACHE_DIR": str(home / "numba"),
        "XDG_CACHE_HOME": str(home / "cache"),
        **config.settled(),
    }


def job(
    scale: str,
    name: str,
    command: Sequence[str],
    threads: int = 1,
    output: Path | None = None,
    notebook: Path | None = None,
    visible: str = "all",
    unless: Sequence[str] = (),
) -> int:
    """Run one command of the graph and note how it went.

    What the command prints goes to a log. It is ended when this process's parent dies, so that a killed run leaves no
    job behind, and it holds the scale's job lock, so that the next run waits until it is gone.

    Args:
        scale: smoke, cpu, gpu or paper.
        name: the job in words.
        command: the program and its arguments.
        threads: for OpenMP and BLAS.
        output: where the command's standard output goes once it has succeeded; None: into the log.
        notebook: the executed notebook that the command makes: it is run again where its kernel did not start.
        visible: the GPUs to choose from, as CUDA_VISIBLE_DEVICES gives them, or "all".
        unless: a command asked first: where it exits 0, nobody needs the job's own, and that is left out.
    Returns: the command's exit status.
    """
    folder = workspace(scale)
    log = folder / "logs" / f"{name.replace(' ', '-')}.log"
    began = time.monotonic()
    with open(folder / "jobs.lock", "a") as alive, open(log, "w") as words:
        fcntl.flock(alive, fcntl.LOCK_SH)
        chosen, slot = _take_gpu(folder, gpus(visible))
        env = {**os.environ, **environment(scale, threads), **chosen}
        note(scale, event="start", job=name)
        say(f"start   {name}")
        needless = bool(unless) and _attempt(unless, env, words, alive)[0] == 0
        for left in reversed(range(KERNEL_TRIES if notebook else 1)):
            if notebook is not None:
                notebook.unlink(missing_ok=True)
            try:
                status, printed = (0, b"not needed\n") if needless else _attempt(command, env, words, alive)
            except (KeyboardInterrupt, SystemExit):
                note(scale, event="stopped", job=name)
                say(f"stopped {name}")
                raise
            if status == 0 or left == 0 or notebook is None or failing_cell(notebook) is not None:
                break
            say(f"again   {name}: its kernel did not start")
        if status == 0 and output is not None:
            # The moment makes each marker another, so that what lies after it is made again even in a later run.
            store.write_atomic(output, printed + f"made at {time.time_ns()}\n".encode())
        elif printed:
            words.write(printed.decode(errors="replace"))
        if slot is not None:
            slot.close()
    seconds = round(time.monotonic() - began, 1)
    note(scale, event="end", job=name, status=status, seconds=seconds, log=str(log), notebook=str(notebook or ""))
    say(f"{'done' if status == 0 else 'FAILED':<7} {name}, {seconds:.0f} s{_so_far(scale)}")
    return status


def _attempt(command: Sequence[str], env: dict[str, str], words: IO[str], alive: IO[str]) -> tuple[int, bytes]:
    """Run a command to its end, or end it when the parent dies or a signal asks; its status and standard output."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(
            list(command), stdout=printed, stderr=words, stdin=subprocess.DEVNULL, env=env, pass_fds=[alive.fileno()]
        )
        try:
            while child.poll() is None:
                try:
                    child.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    if os.getppid() != parent:
                        sys.exit(137)
        finally:
            if child.poll() is None:
                _end(child)
        printed.seek(0)
        return child.returncode, printed.read()


def _end(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def gpus(visible: str = "all") -> list[str]:
    """Ids of the NVIDIA GPUs: those of CUDA_VISIBLE_DEVICES' value, or for "all" those that the driver lists."""
    if visible != "all":
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout.splitlines()
    return [str(index) for index, _ in enumerate(line for line in listed if line.startswith("GPU "))]


def _take_gpu(folder: Path, ids: Sequence[str]) -> tuple[dict[str, str], IO[str] | None]:
    """CUDA_VISIBLE_DEVICES for this machine's GPU with the fewest jobs, and the open lock that counts this one."""
    here = platform.node()
    for share in range(JOBS_PER_GPU):
        for name in ids:
            slot = open(folder / f"gpu-{here}-{name.replace('/', '-')}-{share}.lock", "a")  # noqa: SIM115  held to the job's end
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                slot.close()
            else:
                return {"CUDA_VISIBLE_DEVICES": name}, slot
    return ({"CUDA_VISIBLE_DEVICES": ids[0]} if ids else {}), None


def failing_cell(notebook: Path) -> tuple[int, str] | None:
    """The execution count and the error line of the cell that raised in an executed notebook; None where none did."""
    try:
        cells = json.loads(notebook.read_text())["cells"]
    except (OSError, ValueError, KeyError):
        return None
    for index, cell in enumerate(cells):
        for shown in cell.get("outputs", ()):
            if shown.get("output_type") == "error":
                line = (shown.get("evalue") or "").strip().splitlines()
                return cell.get("execution_count") or index, f"{shown.get('ename')}: {line[0] if line else ''}"
    return None


def note(scale: str, **entry: Any) -> None:
    """Add a line to the list of what ran; where the disk takes none, the run's user is told and the job goes on."""
    try:
        with open(workspace(scale) / "run.jsonl", "a") as lines:
            lines.write(json.dumps({**entry, "time": round(time.time(), 1)}) + "\n")
    except OSError as error:
        say(f"not noted: {entry.get('job', entry['event'])} ({error})")


def notes(scale: str) -> list[dict[str, Any]]:
    """What the last run noted: how many jobs were due, each job's start and end; lines cut short are left out."""
    found = []
    with suppress(FileNotFoundError):
        for line in (workspace(scale) / "run.jsonl").read_text(errors="replace").splitlines():
            with suppress(ValueError):  # its writer was killed, or the disk full
                found.append(json.loads(line))
    return [entry for entry in found if isinstance(entry, dict) and "event" in entry]


def forget(scale: str) -> None:
    """Begin the list of what ran anew."""
    (workspace(scale) / "run.jsonl").unlink(missing_ok=True)


def _so_far(scale: str) -> str:
    """How many of the jobs that were due have ended."""
    due = [entry["jobs"] for entry in notes(scale) if entry["event"] == "due"]
    ended = {entry["job"] for entry in notes(scale) if entry["event"] == "end"}
    return f"  ({len(ended)} of {due[-1]})" if due else ""


def say(line: str) -> None:
    """One line to the user, whole, however many jobs speak."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stderr.flush()
