# Start, or go on with, a long PPO run of 1-1 without a window.
& (Join-Path $PSScriptRoot 'run_mario.ps1') launch overnight @args
exit $LASTEXITCODE
