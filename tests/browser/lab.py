"""A real JupyterLab in a real browser: started, opened, driven, ended."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib import config


def checkout(folder: Path, notebook: str) -> Path:
    """A folder that a notebook takes for the checkout: its own copy of the notebook, which JupyterLab saves into."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(config.ROOT / "notebooks" / notebook, folder / "notebooks")
    for name in ("lib", "config"):
        (folder / name).symlink_to(config.ROOT / name)
    return folder


@contextlib.contextmanager
def server(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """JupyterLab on a free port of this machine, with a token; its address, {} in place of what to open.

    Args:
        folder: what it shows.
        environment: variables of its kernels, beside this process's.
    """
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = folder / ".jupyter"
    asked = own / "CONFIG/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text('{"fetchNews": "false"}')  # else it asks the reader, in front of the notebook
    places = {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    words = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root"]
    words += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words],
            env={**os.environ, **places, **environment, "JUPYTER_PREFER_ENV_PATH": "1"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", process, folder / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"JupyterLab ended at once: {log.read_text()[-2000:]}"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not answer in {seconds:.0f} s: {log.read_text()[-2000:]}")


def run_all(driver: Any, seconds: float = 60) -> None:
    """Press "Run All Cells" in the menu of the notebook that is open, once its kernel answers."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as seen
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, seconds)
    wait.until(seen.presence_of_element_located((By.CSS_SELECTOR, ".jp-NotebookPanel-notebook .jp-CodeCell")))
    # A press before the kernel is connected is lost: the circle above the notebook says when it is.
    ready = ".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status='idle']"
    wait.until(seen.presence_of_element_located((By.CSS_SELECTOR, ready)))
    bar = "//div[contains(@class,'lm-MenuBar-itemLabel') and text()='Run']"
    wait.until(seen.element_to_be_clickable((By.XPATH, bar))).click()
    command = ".lm-Menu-item[data-command='runmenu:run-all']"
    wait.until(seen.element_to_be_clickable((By.CSS_SELECTOR, command))).click()
