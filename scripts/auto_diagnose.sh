#!/usr/bin/env bash
# Judge every new checkpoint: a CSV line each, a film where it comes far.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" diagnose --watch "$@"
