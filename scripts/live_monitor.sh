#!/usr/bin/env bash
# The web page of all runs.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" monitor --runs-root runs "$@"
