#!/usr/bin/env bash
# usage: run_mario.sh train|teach|dreamer|plan|eval|watch|monitor|render|compare|search|stop|health|diagnose|backup|launch|push|pull|tensorboard|install|smoke|bench|test|python [flags of that command]
#
# Finds a Python 3.13 and hands everything to front_door.py, which makes .venv, installs and runs.
# Paths in the flags are those of the folder you are in.
if [ -z "${BASH_VERSION:-}" ]; then
  exec bash "$0" "$@" # it was called by another shell: sh scripts/run_mario.sh
fi
set -eu
unset CDPATH # else cd prints where it went

# This script may be a link to the one in the repository.
script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do
  target=$(readlink "$script")
  case $target in
    /*) script=$target ;;
    *) script=$(dirname "$script")/$target ;;
  esac
done
scripts=$(cd "$(dirname "$script")" && pwd)

# A file that is called python3.13 proves nothing: a pyenv shim may refuse to start, and Debian's
# Python cannot make an environment (no ensurepip) until python3-venv is installed.
works() {
  "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 13))' >/dev/null 2>&1 </dev/null
}

candidates() {
  # Only a finished environment: a cut off one has to be built anew by another Python.
  if [ -f "$scripts/../.venv/installed.json" ]; then
    echo "$scripts/../.venv/bin/python"
  fi
  if [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON"
  fi
  type -aP python3.13 python3 python || true
  local python
  for python in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.13*/bin/python3.13; do
    echo "$python"
  done
  uv python find 3.13 2>/dev/null || true
}

while IFS= read -r python; do
  if works "$python"; then
    exec "$python" "$scripts/front_door.py" "$@" <&3 3<&-
  fi
done 3<&0 < <(candidates)

# uv can fetch one, for this user alone; somebody has to be there to say so.
if type -P uv >/dev/null && [ -t 0 ] && [ -t 2 ]; then
  read -r -p "run_mario: no Python 3.13 here. Fetch one with uv? [y/N] " answer
  case $answer in
    [yY]*) uv python install 3.13 && exec bash "$script" "$@" ;;
  esac
fi

echo "run_mario: no Python 3.13 found: install it (python.org, 'uv python install 3.13' or" \
  "'pyenv install 3.13') or set PYTHON to one" >&2
exit 2
