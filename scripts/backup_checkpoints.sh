#!/usr/bin/env bash
# Copy checkpoints to another place before the trainer drops them.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" backup "$@"
