# One line a run, for a log or a scheduled task: exit code 1 if one is dead, stalled or collapsed.
& (Join-Path $PSScriptRoot 'run_mario.ps1') health --brief @args
exit $LASTEXITCODE
