"""run_all.sh: what it understands, where it can be called from, and set-up that happens once."""

import os
import re
import shutil
import subprocess
from collections import Counter

import pytest
from workshop import ROOT, Workshop

# A python3.11 that makes environments of shell scripts, and notes what is asked of it, of its pip and of its uv.
FAKE_PYTHON = """#!/bin/sh
case "$1" in
  -c) exit 0 ;;
  --version) echo Python 3.11.0 ;;
  -m)
    echo "$2" >>"{notes}"
    case "$2" in
      venv) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && touch "$4/pip" ;;
      pip)
        case "$3" in
          --version) exit 0 ;;
          install)
            case " $* " in *" -r "*) echo install >>"{notes}" ;; esac
            exit {status} ;;
        esac ;;
      uv) sleep {sleep}; echo install >>"{notes}"; exit {uv} ;;
    esac ;;
esac
"""


@pytest.fixture
def shop(tmp_path) -> Workshop:
    return Workshop(tmp_path / "a clone with spaces")


@pytest.fixture
def bare(shop, tmp_path):
    """A checkout without an environment, and the fake Python first on the path; `notes()` says what was installed."""
    shutil.rmtree(shop.root / ".venv")
    notes = tmp_path / "notes"

    def fake(status: int = 0, sleep: float = 0, uv: int = 0) -> None:
        path = tmp_path / "bin" / "python3.11"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE_PYTHON.format(notes=notes, status=status, sleep=sleep, uv=uv))
        path.chmod(0o755)

    fake()
    shop.path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    shop.fake = fake
    shop.notes = lambda: notes.read_text().split() if notes.exists() else []
    return shop


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["large"], "no scale 'large': smoke, cpu, gpu or paper"),
        (["smoke", "cpu"], "unrecognized arguments: cpu"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--cores"], "argument --cores: expected one argument"),
        (["--cores", "none"], "argument --cores: none: a whole number from 1"),
        (["--cores=0"], "argument --cores: 0: a whole number from 1"),
        (["--data", "no such folder"], "no such folder"),
        (["report", "large"], "no scale 'large': smoke, cpu, gpu or paper"),
        (["status", "large"], "argument scale: invalid choice: 'large'"),
        (["box", "large"], "argument scale: invalid choice: 'large'"),
        (["box", "smoke", "--out"], "argument --out: expected one argument"),
        (["box", "smoke", "--minutes", "nan"], "argument --minutes: nan: minutes, above 0"),
        (["merge"], "the following arguments are required: archive"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(shop, words, message):
    done = shop.call(*words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("run_all.sh: ") and message in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["paper", "--help"]])
def test_help_needs_no_environment(shop, words):
    shutil.rmtree(shop.root / ".venv")
    done = shop.call(*words)
    assert done.returncode == 0
    for word in (
        "smoke",
        "cpu",
        "paper",
        "--cores",
        "--only",
        "--data",
        "--dry-run",
        "--retrain",
        "test",
        "lab",
        "report",
    ):
        assert word in done.stdout
    assert not (shop.root / ".venv").exists()


def test_an_item_that_does_not_exist_lists_those_that_do(shop):
    done = shop.call("--only", "robustness_zero")
    assert done.returncode == 2
    assert "no item 'robustness_zero': one of robustness_one, robustness_two, robustness_three" in done.stderr
    assert "01_one, 02_two, 90_last" in done.stderr


def test_a_profile_that_does_not_exist_lists_those_that_do(shop):
    done = shop.call("--profile", "moon", "--dry-run")
    assert done.returncode == 2
    assert "no profile 'moon': one of kubernetes, local, slurm" in done.stderr


def test_works_from_any_folder_and_through_links(shop, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "first").symlink_to("../a clone with spaces/run_all.sh")
    (tmp_path / "second").symlink_to("links/first")
    for script in (shop.root / "run_all.sh", tmp_path / "second"):
        done = shop.call("--dry-run", "--only", "02_two", script=script, cwd=tmp_path / "links")
        assert done.returncode == 0, done.stderr
        assert "robustness_three: complete at no seed yet" in done.stdout
        assert "robustness_one" not in done.stdout


def test_bytecode_is_kept_where_the_caller_keeps_none(shop):
    (shop.root / "test_it.py").write_text("import sys\n\ndef test_it():\n    assert not sys.dont_write_bytecode\n")
    done = shop.call("test", "-n", "0", "test_it.py", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_may_be_given_more_than_once(shop):
    done = shop.call("--dry-run", "--only", "02_two", "--only=robustness_one")
    assert done.returncode == 0, done.stderr
    for item in ("robustness_one", "robustness_two", "robustness_three"):
        assert f"{item}: complete at no seed yet" in done.stdout
    due = done.stdout.split("Out of date now: ")[1].strip().split(", ")
    assert Counter(job.split()[0] for job in due) == {"train": 6, "step": 4, "notebook": 2}


def test_data_is_a_folder_from_where_the_caller_is(shop, tmp_path):
    (tmp_path / "here" / "my sets").mkdir(parents=True)
    shop.write("lib/zoo.py", "import os\ndef card(*_, **__):\n    raise RuntimeError(os.environ['DATA_ROOT'])\n")
    done = shop.call("--data", "my sets", "--only", "02_two", "--dry-run", cwd=tmp_path / "here")
    assert f"it cannot be told whether other is there: {tmp_path / 'here' / 'my sets'}\n" in done.stdout


def test_set_up_happens_once(bare):
    for _ in range(2):
        done = bare.call("setup", PATH=bare.path)
        assert done.returncode == 0, done.stderr
    assert bare.notes().count("install") == 1
    assert bare.notes().count("venv") == 1


def test_where_uv_cannot_install_pip_does(bare):
    bare.fake(uv=1)
    done = bare.call("setup", PATH=bare.path)
    assert done.returncode == 0 and "once more, with pip" in done.stderr
    assert bare.notes().count("uv") == 1 and bare.notes().count("install") == 2
    assert bare.call("setup", PATH=bare.path).returncode == 0
    assert bare.notes().count("install") == 2


def test_a_changed_lock_is_installed_into_the_same_environment(bare):
    bare.call("setup", PATH=bare.path)
    bare.write("requirements.txt", "tqdm==4.70.1\n")
    assert bare.call("setup", PATH=bare.path).returncode == 0
    assert bare.notes().count("install") == 2
    assert bare.notes().count("venv") == 1


def test_a_failed_installation_is_not_taken_for_done(bare):
    bare.fake(status=1)
    done = bare.call("setup", PATH=bare.path)
    assert done.returncode == 1
    assert "set-up failed" in done.stderr
    bare.fake(status=0)
    shutil.copy(bare.root.parent / "bin" / "python3.11", bare.root / ".venv/bin/python")
    assert bare.call("setup", PATH=bare.path).returncode == 0
    assert bare.notes().count("install") == 2


def test_a_broken_environment_is_made_anew(bare):
    bare.call("setup", PATH=bare.path)
    (bare.root / ".venv/bin/python").unlink()
    assert bare.call("setup", PATH=bare.path).returncode == 0
    assert bare.notes().count("venv") == 2


@pytest.mark.skipif(
    shutil.which("flock") is None, reason="two set-ups at once are kept apart by flock, where there is one"
)
def test_two_calls_at_once_set_up_once(bare):
    bare.fake(sleep=1.5)
    script = str(bare.root / "run_all.sh")
    calls = [subprocess.Popen([script, "setup"], env=bare.environment(PATH=bare.path)) for _ in range(2)]
    assert [call.wait(timeout=60) for call in calls] == [0, 0]
    assert bare.notes().count("install") == 1


def test_without_a_python_it_says_which_to_install(bare, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (
        "bash",
        "env",
        "dirname",
        "basename",
        "readlink",
        "sed",
        "cat",
        "cut",
        "sha256sum",
        "grep",
        "flock",
        "rm",
    ):
        if shutil.which(name):
            (tools / name).symlink_to(shutil.which(name))
    done = bare.call("setup", PATH=str(tools))
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in done.stderr


@pytest.mark.parametrize(("name", "used"), [("neurons", True), ("base", False)])
def test_the_active_conda_environment_is_used_if_it_is_ours(bare, tmp_path, name, used):
    prefix = tmp_path / "envs" / name
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "bin" / "python3.11", prefix / "bin" / "python")
    done = bare.call("setup", PATH=bare.path, CONDA_PREFIX=str(prefix))
    assert done.returncode == 0, done.stderr
    assert (bare.root / ".venv").exists() is not used
    assert (prefix / ".requirements-hash").exists() is used


def test_the_lock_pins_every_version_and_names_no_place():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line.split(";")[0] for line in pins)
    assert not [line for line in lines if "://" in line or line.startswith("-") or "@" in line]
    locked = {line.split("==")[0].lower() for line in pins}
    wanted = [re.split("[=<]", line)[0] for line in (ROOT / "requirements.in").read_text().splitlines()]
    assert {name.lower() for name in wanted if name and not name.startswith("#")} <= locked
    assert "-r requirements.txt" in (ROOT / "environment.yml").read_text()


def test_box_and_merge_take_files_from_where_the_user_is(shop, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "box.zip").write_text("no archive")
    done = shop.call("merge", "box.zip", cwd=tmp_path / "elsewhere")
    assert done.returncode == 2 and f"{tmp_path}/elsewhere/box.zip: damaged, or no archive of a time box" in done.stderr
    words = ["box", "smoke", "--only", "dense", "--minutes", "1", "--processes", "1", "--out", "box.zip"]
    done = shop.call(*words, cwd=tmp_path / "elsewhere")
    assert done.returncode == 2 and f"{tmp_path}/elsewhere/box.zip is there already" in done.stderr
    done = shop.call("box", "smoke", "--only", "nothing", "--minutes", "1")
    assert done.returncode == 2 and "no item, notebook or family 'nothing' at scale 'smoke'" in done.stderr
