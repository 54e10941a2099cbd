"""One job of the graph: its environment, its log, its GPU, its end when the run that started it is gone; one run at a
time, and the list of what ran."""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lib import config, store

KERNEL_TRIES = 3  # of a notebook whose kernel did not start; a cell that raised is never run again
JOBS_PER_GPU = 4
CLEAR = "\r\x1b[K"  # takes a terminal's line away


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
        "XDG_CACHE_HOME": str(home / "cache"),
        **config.settled(),
    }


def short(path: Path) -> str:
    """A path for Snakemake: relative to the repository root where it lies in it.

    Raises: ConfigError for a folder whose name Snakemake would take for placeholders.
    """
    path = path.absolute()
    name = str(path.relative_to(config.ROOT) if path.is_relative_to(config.ROOT) else path)
    if set(name) & set("{}<>"):
        raise config.ConfigError(
            f"folder {name!r} has one of {{ }} < > in its name, which Snakemake takes for placeholders: name another "
            "with NEURONS_CACHE, NEURONS_RESULTS or NEURONS_CONFIG"
        )
    return f"./{name}" if name.startswith("-") else name  # papermill writes to what begins with - as to a stream


def job(
    scale: str,
    name: str,
    words: Sequence[str],
    threads: int = 1,
    output: Path | None = None,
    makes: Sequence[Path] = (),
    gpus: str = "all",
    unless_kept: Sequence[str] = (),
    seed: int = 0,
) -> int:
    """Run one command of the graph and note how it went.

    What the command prints goes to a log. It is ended when this process's parent dies, so that a killed run leaves no
    job behind, and it holds the scale's job lock, so that the next run waits until it is gone.

    Args:
        scale: smoke, cpu, gpu or paper.
        name: the job in words.
        words: the command, a program and its arguments.
        threads: for OpenMP and BLAS.
        output: a file that says that the job is done, written once the command has succeeded.
        makes: files that are removed before and must be there after it. Where an executed notebook is among them, the
            command is run again if its kernel did not start.
        gpus: those to choose from, as CUDA_VISIBLE_DEVICES gives them, or "all".
        unless_kept, seed: steps, module:function, and their seed: where all that they make is kept, nobody needs what
            the command makes, and it is left out.
    Returns: the command's exit status; 1 where it has not made what it should.
    """
    folder, began = workspace(scale), time.monotonic()
    log = folder / "logs" / f"{name.replace(' ', '-')}.log"
    notebook = next((path for path in makes if path.suffix == ".ipynb"), None)
    with open(folder / "jobs.lock", "a") as alive, open(log, "w") as out:
        fcntl.flock(alive, fcntl.LOCK_SH)
        chosen, slot = _take_gpu(folder, devices(gpus))
        env = {**os.environ, **environment(scale, threads), **chosen}
        env["NEURONS_PROGRESS"] = "" if notebook else "1"  # a kernel's words are part of its notebook
        note(scale, event="start", job=name, log=str(log))
        say(f"start   {name}")
        try:
            kept = [sys.executable, "-m", "lib.evaluations", "--kept", "--scale", scale, "--seed", str(seed), "--run"]
            needless = bool(unless_kept) and _attempt([*kept, *unless_kept], env, out, alive) == 0
            for left in reversed(range(KERNEL_TRIES if notebook else 1)):
                for path in makes:
                    path.unlink(missing_ok=True)
                status = 0 if needless else _attempt(words, env, out, alive)
                if status == 0 or left == 0 or (notebook and failing_cell(notebook) is not None):
                    break
                say(f"again   {name}: its kernel did not start")
        except (KeyboardInterrupt, SystemExit):
            note(scale, event="stopped", job=name)
            say(f"stopped {name}")
            raise
        missing = [path.name for path in makes if not path.exists()]
        if not status and missing:
            status = 1
            out.write(f"it did not make {', '.join(missing)}\n")
        if not status and output is not None:
            # The moment makes each marker another, so that what lies after it is made again even in a later run.
            store.write_atomic(output, f"made at {time.time_ns()}\n")
        if slot is not None:
            slot.close()
    seconds = round(time.monotonic() - began, 1)
    note(scale, event="end", job=name, status=status, seconds=seconds, log=str(log), notebook=str(notebook or ""))
    say(f"{'FAILED' if status else 'done':<7} {name}, {seconds:.0f} s")
    return status


def _attempt(words: Sequence[str], env: dict[str, str], out: IO[str], alive: IO[str]) -> int:
    """Run a command to its end, or end it when the parent dies or a signal asks; its exit status."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    quiet, held = subprocess.DEVNULL, [alive.fileno()]
    child = subprocess.Popen(list(words), stdout=out, stderr=out, stdin=quiet, env=env, pass_fds=held)
    try:
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.5)
            if os.getppid() != parent:
                sys.exit(137)
    finally:
        if child.poll() is None:
            _end(child)
    return child.returncode


def _end(child: subprocess.Popen) -> None:
    child.terminate()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def devices(visible: str = "all") -> list[str]:
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


def last_line(path: Path) -> str:
    """The last line of a log that is not empty: of a program that failed, its error."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "its log is gone"
    return lines[-1] if lines else ""


def say(line: str) -> None:
    """One line to the user, whole, however many jobs speak; in a terminal it takes the place of the live line."""
    sys.stderr.write(f"{CLEAR if sys.stderr.isatty() else ''}{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stderr.flush()


@contextmanager
def alone(scale: str) -> Iterator[None]:
    """Hold a scale's run lock, in its cache and on its results folder; a second run of either waits.

    The kernel frees a lock when its holder dies, however it dies. What killed runs left half-written is cleared.
    """
    folder, results = workspace(scale), config.results_dir(scale)
    with open(folder / "run.lock", "a") as lock:
        _wait(lock, f"another run of {scale} is at work; waiting for it to end")
        with open(folder / "jobs.lock", "a") as left:
            _wait(left, f"a job of an earlier run of {scale} is still at work; waiting for it to end")
        results.mkdir(parents=True, exist_ok=True)
        handle = os.open(results, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system that does not lock folders
                _wait(handle, f"another run writes to {results}; waiting for it to end")
            for place in (results, config.cache_dir(scale), config.cache_dir("data")):
                store.sweep(place)
            # A process killed while it wrote matplotlib's list of fonts leaves a lock that every later one waits for.
            for lock_file in (config.cache_dir(scale).parent / "home" / "matplotlib").glob("*.matplotlib-lock"):
                lock_file.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)


def at_work(scale: str) -> bool:
    """Whether a run of a scale is at work."""
    with open(workspace(scale) / "run.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _wait(lock: IO[str] | int, message: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(message)
        fcntl.flock(lock, fcntl.LOCK_EX)
