#!/usr/bin/env bash
# Health of a run: process, lock, speed, evaluations, GPU, verdict. --loop --every-s 30 goes on.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" health "$@"
