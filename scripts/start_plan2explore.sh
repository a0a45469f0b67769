#!/usr/bin/env bash
# Start DreamerV3 with Plan2Explore apart from this terminal.
exec "$(dirname "${BASH_SOURCE[0]}")/run_mario.sh" launch plan2explore "$@"
