#!/usr/bin/env bash
# Sets up the environment on first use and runs everything there is; see `help`.
set -euo pipefail

# The checkout, whatever the caller's directory and whichever links led here.
script=${BASH_SOURCE[0]}
while [[ -L $script ]]; do
  folder=$(CDPATH='' cd -P -- "$(dirname -- "$script")" && pwd)
  script=$(readlink -- "$script")
  [[ $script == /* ]] || script=$folder/$script
done
root=$(CDPATH='' cd -P -- "$(dirname -- "$script")" && pwd)

venv=$root/.venv
installed=$venv/installed.txt # what a finished installation installed
wanted=$venv/wanted.txt       # what an unfinished one is to install

help() {
  cat <<'TEXT'
usage: ./launch.sh [command] [flags]

  (none)      quickstart: train on generated images, attack, purify, one figure
  train       train a classifier, bare or on purified images
  evaluate    measure accuracy, clean and under attack
  purify      purify images, folders, arrays or a data set
  reproduce   rerun the paper's tables and figures; --list names them
  report      everything in results/ as one HTML page, out/report.html
  bench NAME  run a benchmark; without NAME, all of them, of which gpu is only
              rehearsed; --help lists them
  docs        the documentation as a site, out/docs/index.html; --serve shows it at
              http://127.0.0.1:8000 and follows changes
  test        ruff, mypy and pytest, in minutes; --all runs the slow tests too, and
              what else follows goes to pytest
  help        this text

Flags go to the command; `./launch.sh train --help` lists them. Relative paths count
from your directory. The first use installs requirements.txt into .venv, with uv if you
have it; PYTHON=/path/to/python3 chooses the interpreter (3.11 or newer).

For an NVIDIA GPU: SPLIC_JAX_GPU=1 ./launch.sh    (once; adds jax[cuda13] to .venv)
TEXT
}

fail() {
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

or_fail() {
  "$@" || fail 1 "the installation failed; the same command starts it over"
}

# Prints the path of the first interpreter that is new enough.
find_python() {
  local candidate candidates version found=none
  candidates=(python3 python3.13 python3.12 python3.11)
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    # Old Pythons must be able to run this too.
    if version=$("$candidate" -c 'import sys
print("%d.%d.%d" % sys.version_info[:3])
sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
    if [[ $found == none && -n $version ]]; then found="$candidate $version"; fi
  done
  fail 1 "Python 3.11 or newer is needed, found $found; \
install one or name it with PYTHON=/path/to/python3"
}

# requirements.txt, with jax's CUDA plugins for those who asked for them once.
packages() {
  if [[ ${SPLIC_JAX_GPU:-0} != 0 ]] || grep -qs cuda13 "$installed" "$wanted"; then
    sed 's/^jax==/jax[cuda13]==/' "$root/requirements.txt"
  else
    cat "$root/requirements.txt"
  fi
}

is_set_up() {
  [[ -x $venv/bin/python && -f $installed ]] && packages | cmp -s - "$installed"
}

pip_install() {
  local python=$venv/bin/python
  # An environment that uv made has no pip.
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m ensurepip >/dev/null || return
  fi
  "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

# Other libraries' attacks. Without them the tests that compare with them are skipped.
install_peers() {
  local list=$root/requirements-peers.txt
  if cmp -s "$list" "$venv/peers.txt"; then return; fi
  if pip_install --no-deps -r "$list" 2>"$venv/peers.log"; then
    cp -- "$list" "$venv/peers.txt"
  else
    printf 'The tests that compare with other libraries are skipped: %s (see %s)\n' \
      'they could not be installed' "$venv/peers.log" >&2
  fi
}

install() {
  local python list
  list=$(packages)
  # An interrupted installation may be broken anywhere: start over.
  if [[ -f $wanted ]]; then rm -rf -- "$venv"; fi
  if [[ ! -x $venv/bin/python ]]; then python=$(find_python); fi
  printf 'Installing the packages into %s (takes minutes the first time) ...\n' \
    "$venv" >&2
  mkdir -p -- "$venv"
  printf '%s\n' "$list" >"$wanted"
  rm -f -- "$installed"
  if command -v uv >/dev/null; then
    if [[ -n ${python:-} ]]; then
      or_fail uv venv --quiet --allow-existing --python "$python" "$venv"
    fi
    or_fail uv pip install --quiet --python "$venv/bin/python" -r "$wanted"
  else
    if [[ -n ${python:-} ]]; then or_fail "$python" -m venv "$venv"; fi
    or_fail pip_install -r "$wanted"
  fi
  mv -- "$wanted" "$installed" # last: the mark of a finished installation
}

set_up() {
  if is_set_up; then return; fi
  # Two launches at once must not install into each other.
  exec 9>"$root/.venv.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if ! is_set_up; then install; fi
  exec 9>&-
}

# The same bits whichever cores are free: how XLA splits a sum or a convolution among its
# threads, and LAPACK a decomposition, follows from their number, by default that of the
# cores that the process may use.
same_bits() {
  local cores
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 8)
  export NPROC=${NPROC:-$((cores > 8 ? cores : 8))}
  export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
}

# Runs a module of the checkout from the caller's directory, which `-P` keeps from
# being searched for modules.
run_module() {
  set_up
  same_bits
  # Large pages for large arrays, and memory that is kept from one call of a program to
  # the next, or a tenth of a training step or of a gradient on a CPU goes into getting
  # it page by page. Other C libraries than glibc take no notice.
  local malloc=hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776
  export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.$malloc}
  # Short loops as vector instructions: LLVM would else unroll them into scalar ones
  # before it gets to that, which makes purification slower by a sixth.
  export XLA_FLAGS="--xla_backend_extra_options=xla_cpu_disable_loop_unrolling ${XLA_FLAGS-}"
  PYTHONPATH=$root exec "$venv/bin/python" -P -m "$@"
}

benchmarks() {
  local file
  for file in "$root"/benchmarks/[!_]*.py; do
    if [[ -f $file ]]; then basename -- "$file" .py; fi
  done
}

command=${1:-quickstart}
case $command in
-h | --help) command=help ;;
-*) command=quickstart ;;
*) if (($#)); then shift; fi ;;
esac

case $command in
quickstart | train | evaluate | purify | reproduce | report)
  run_module "train.$command" "$@"
  ;;
bench)
  name=${1:-}
  if [[ -z $name ]]; then
    failed=()
    for name in $(benchmarks); do
      flags=()
      # It wants a GPU and data of its own; a rehearsal wants neither.
      if [[ $name == gpu ]]; then flags=(--rehearse); fi
      # In a process of its own, since `set -e` would not hold in a part of this one.
      status=0
      "$BASH" "${BASH_SOURCE[0]}" bench "$name" ${flags[@]+"${flags[@]}"} || status=$?
      if ((status == 130)); then exit "$status"; fi # Ctrl-C is meant for all
      if ((status)); then failed+=("$name"); fi
    done
    if ((${#failed[@]})); then fail 1 "these benchmarks failed: ${failed[*]}"; fi
    exit 0
  fi
  if [[ $name == -* ]]; then
    printf 'usage: ./launch.sh bench [NAME [flags]], all of them or one of:\n'
    benchmarks
    exit 0
  fi
  if [[ $name == */* || $name == _* || ! -f $root/benchmarks/$name.py ]]; then
    fail 2 "no benchmark '$name'; there are: $(benchmarks | paste -sd ' ' -)"
  fi
  shift
  run_module "benchmarks.$name" "$@"
  ;;
docs)
  export NO_MKDOCS_2_WARNING=1 # an advertisement
  action=build
  if [[ ${1:-} == --serve ]]; then action=serve && shift; fi
  run_module mkdocs "$action" --strict --config-file "$root/mkdocs.yml" "$@"
  ;;
test)
  set_up
  install_peers
  cd -- "$root"
  "$venv/bin/python" -m ruff check .
  "$venv/bin/python" -m ruff format --check .
  "$venv/bin/python" -m mypy
  # On several cores, file by file: a file's tests share what they prepare.
  exec "$venv/bin/python" -m pytest --numprocesses=auto --dist=loadfile "$@"
  ;;
help) help ;;
*)
  fail 2 "no command '$command'; there are: quickstart (the default), train, evaluate, \
purify, reproduce, report, bench, docs, test, help"
  ;;
esac
