#!/usr/bin/env bash
# Start, or go on with, a long PPO run of 1-1 apart from this terminal.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" launch overnight "$@"
