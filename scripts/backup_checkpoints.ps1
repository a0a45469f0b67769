# Copy checkpoints to another place before the trainer drops them.
& (Join-Path $PSScriptRoot 'run_mario.ps1') backup @args
exit $LASTEXITCODE
