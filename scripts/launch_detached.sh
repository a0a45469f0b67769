#!/usr/bin/env bash
# Start a training that outlives this terminal; further flags go to it.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" launch detached "$@"
