#!/usr/bin/env bash
# One line a run, for a log or a cron job: exit code 1 if one is dead, stalled or collapsed.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" health --brief "$@"
