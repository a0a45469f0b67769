#!/usr/bin/env bash
# Start PPO on 1-2 from the shipped weights of 1-1, apart from this terminal.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" launch finetune_1-2 "$@"
