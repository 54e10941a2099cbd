#!/usr/bin/env bash
# Set up once, then regenerate every figure and table of a scale. ./run_all.sh --help
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./run_all.sh [smoke|cpu|gpu|paper] [options]    regenerate the figures and tables of a scale (default: smoke)
       ./run_all.sh test [pytest arguments]            run the tests
       ./run_all.sh lab [jupyter lab arguments]        open the notebooks in JupyterLab
       ./run_all.sh report [smoke|cpu|gpu|paper]       build index.html and each paper's page in results/<scale>
       ./run_all.sh verify [smoke|cpu|gpu|paper] [...] check that tables, figures and claims follow from the records
       ./run_all.sh crate [smoke|cpu|gpu|paper] [...]  describe a scale's results as an RO-Crate, to hand them on
       ./run_all.sh box [smoke|cpu|gpu|paper] [...]    train and evaluate what can be finished in some minutes
       ./run_all.sh merge ARCHIVE [...]                take what a box has made into results/<scale>
       ./run_all.sh status [smoke|cpu|gpu|paper]       how far the run is, or what the last one did
       ./run_all.sh setup                              only make the environment, and make this clone ready for it

Scales:  smoke   every notebook on 5,000 real digits that a pip package ships: minutes, no network
         cpu     the papers' own data at reduced size: minutes with the tables that come along, more than a day
                 from nothing (two cores), resumable
         gpu     the papers' networks at full width, schedules as short as reach the usual accuracy: one GPU
         paper   the papers' settings: one GPU or a cluster

Options: --cores N      cores used at a time (default: all, or what the profile says)
         --only ITEM    one item (robustness_fig3) or one notebook (01_robustness_magnitude_pruning), and what it needs;
                        may be given more than once
         --data DIR     folder of the image sets, in torchvision's layout (default: $DATA_ROOT, else data/)
         --dry-run      say which data are missing, what is left to compute and about how long it takes; run nothing
         --profile NAME a Snakemake profile, a folder of profiles/ (default: local)
         --retrain      train every network anew, also those that ship with the package
         --help         this text

verify:  --write        enter every file of the results in results/<scale>/checksums.sha256 as it now is
         --rerun ITEM   execute the notebook of an item (or all) again, elsewhere, and compare the numbers
         --against DIR  compare the numbers with those of another run's results folder, as of a cluster
crate:   --check        only read the crate back and check it
box:     --only ITEM... items, notebooks or families, the most urgent first; --seeds K... (default: all of the scale's)
         --minutes M    nothing is begun that cannot be finished in them; the archive is whole at any moment
         --entry NAME   of config/queue.yaml, in place of scale, --only, --seeds and --minutes
         --processes P  side by side on this machine's devices (default: 4)
         --out FILE     the archive of cards, kept tables and small weights (default: box.zip)
         --dry-run      say what is there, what fits, and its estimated time
merge:   --dry-run      say what would be new, what is there, what is refused; write nothing
         --replace NAME a network whose card may be replaced by that of other weights

The first call makes the environment: the active conda environment if it is the one of environment.yml, else .venv with
Python 3.11 or later; both from requirements.txt. Later calls need no network. A run that was stopped, however it was
stopped, goes on where it left off when the same command is given again.
Results: results/<scale>/index.html. Exit status: 0 done; 1 something failed, the summary says what; 2 a wrong call.
TEXT
}

die() {
  printf 'run_all.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

say() { printf '%s\n' "$1" >&2; }

# The folder of this script, through symbolic links.
home_of() {
  local path=$1 folder
  while [ -L "$path" ]; do
    folder=$(cd -P "$(dirname "$path")" && pwd)
    path=$(readlink "$path")
    case $path in /*) ;; *) path=$folder/$path ;; esac
  done
  cd -P "$(dirname "$path")" && pwd
}

hash_of() {
  if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d' ' -f1
}

# A Python that the lock is made for and that can make environments.
find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  die "no Python 3.11, 3.12 or 3.13 found. Install one, or: conda env create -f environment.yml" 1
}

# Sets `python`; installs requirements.txt where the environment's stamp is not that file's hash.
set_up() {
  local name prefix want
  name=$(sed -n 's/^name: *//p' "$root/environment.yml")
  if [ -n "${CONDA_PREFIX:-}" ] && [ "$(basename "$CONDA_PREFIX")" = "$name" ]; then
    prefix=$CONDA_PREFIX
  else
    prefix=$root/.venv
  fi
  python=$prefix/bin/python
  want=$(hash_of "$root/requirements.txt")
  if stamped "$prefix" "$want" && importable; then return; fi
  exec 9>"$root/.setup-lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "set-up: another run is making $prefix; waiting for it"
    flock 9
  fi
  if ! stamped "$prefix" "$want"; then install_into "$prefix" "$want"; fi
  if ! importable; then install_package; fi
  if [ -n "$fresh" ]; then make_ready; fi
  exec 9>&-
}

# Whether notebooks find the package from any folder.
importable() {
  env -u PYTHONPATH "$python" -P -c "import lib.config" >/dev/null 2>&1
}

install_package() {
  "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e "$root" ||
    die "set-up failed: pip could not install the package itself (above). Call again to go on." 1
}

stamped() {
  [ -x "$1/bin/python" ] && [ "$(cat "$1/.requirements-hash" 2>/dev/null || true)" = "$2" ]
}

install_into() {
  local prefix=$1 want=$2 base uv pip
  pip=("$prefix/bin/python" -m pip install --quiet --disable-pip-version-check --no-input)
  rm -f "$prefix/.requirements-hash"
  if ! "$prefix/bin/python" -m pip --version >/dev/null 2>&1; then
    [ "$prefix" = "$root/.venv" ] || die "$prefix has no pip: conda env update -f environment.yml" 1
    base=$(find_python)
    say "set-up: making .venv with $("$base" --version)"
    "$base" -m venv --clear "$prefix" ||
      die "$base cannot make environments: install its venv module (Debian: python3-venv) and call again" 1
  fi
  say "set-up: installing $(grep -c '==' "$root/requirements.txt") packages from requirements.txt, once (some GB)"
  # uv takes a third of pip's time. It knows nothing of pip's settings: where it fails, as behind another index, pip it is.
  uv=$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' "$root/requirements.txt")
  if ! { "${pip[@]}" "$uv" && "$prefix/bin/python" -m uv pip install --quiet --python "$prefix/bin/python" \
    -r "$root/requirements.txt"; }; then
    say "set-up: uv could not (above); once more, with pip"
    "${pip[@]}" -r "$root/requirements.txt" ||
      die "set-up failed: pip could not install requirements.txt (above). Call again to go on." 1
  fi
  printf '%s\n' "$want" >"$prefix/.requirements-hash.part"
  mv "$prefix/.requirements-hash.part" "$prefix/.requirements-hash"
  fresh=1
}

# What a new environment or clone needs once more: git leaves the outputs of notebooks out (.gitattributes), and the
# compiled loops are kept before a kernel waits for them. Nothing fails without either.
make_ready() {
  local filter="'$python' -m lib.cells"
  if [ -e "$root/.git" ] && command -v git >/dev/null; then
    git -C "$root" config filter.notebook-cells.clean "${filter//"$root/"/}" ||
      say "set-up: git takes no filter; notebooks that were run will count as changed"
  fi
  say "set-up: compiling loops ahead (a minute the first time)"
  (cd "$root" && "$python" -m lib.explore.ahead) ||
    say "set-up: not compiled ahead (above); the first slice will take longer"
  say "set-up: done"
}

# A command of lib/engine, which reads the options itself; relative paths are those of where the user is.
engine() {
  local from=$PWD
  set_up
  cd "$root"
  exec "$python" -m lib.engine --called-from "$from" "$@"
}

# report, verify and crate: a scale where the first word is one, then the module's own options.
on_results() {
  local module=$1 scale=smoke
  shift
  case ${1:-} in
    '' | -*) ;;
    smoke | cpu | gpu | paper)
      scale=$1
      shift
      ;;
    *) die "no scale '$1': smoke, cpu, gpu or paper" ;;
  esac
  set_up
  cd "$root"
  exec "$python" -m "lib.$module" --scale "$scale" "$@"
}

run_tests() {
  local word spread=(-n 2 --dist loadfile --no-loadscope-reorder)
  for word in "$@"; do
    case $word in -n | -n[0-9]* | -n=* | --numprocesses* | --pdb | -p | -h | --help | --collect-only | --co) spread=() ;; esac
  done
  set_up
  cd "$root"
  export OMP_NUM_THREADS=1
  exec "$python" -m pytest ${spread[@]+"${spread[@]}"} "$@"
}

fresh=""
root=$(home_of "${BASH_SOURCE[0]}")
export PYTHONPATH=$root PYTHONNOUSERSITE=1
# As containers often set it: each of a run's hundred processes would compile all that it imports, for seconds.
unset PYTHONDONTWRITEBYTECODE
if [ -n "${DATA_ROOT:-}" ] && [ -d "$DATA_ROOT" ]; then
  DATA_ROOT=$(CDPATH='' cd -P -- "$DATA_ROOT" && pwd)
  export DATA_ROOT
fi

for word in "$@"; do
  case $word in
    -h | --help)
      [ "$1" = test ] || [ "$1" = lab ] || { usage && exit 0; }
      ;;
  esac
done

case ${1:-} in
  test)
    shift
    run_tests "$@"
    ;;
  lab)
    shift
    set_up
    cd "$root"
    exec "$python" -m jupyterlab --notebook-dir="$root" "$@"
    ;;
  report | verify | crate) on_results "$@" ;;
  box | merge | status) engine "$@" ;;
  setup)
    [ $# -eq 1 ] || die "setup takes nothing more"
    set_up
    [ -n "$fresh" ] || make_ready
    say "environment: $python"
    ;;
  '' | -* | smoke | cpu | gpu | paper) engine run "$@" ;;
  *) die "no scale '$1': smoke, cpu, gpu or paper" ;;
esac
