# Judge every new checkpoint: a CSV line each, a film where it comes far.
& (Join-Path $PSScriptRoot 'run_mario.ps1') diagnose --watch @args
exit $LASTEXITCODE
