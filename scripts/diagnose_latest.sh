#!/usr/bin/env bash
# Judge the newest checkpoint, sampled and argmax, on the CPU beside the training.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" diagnose "$@"
