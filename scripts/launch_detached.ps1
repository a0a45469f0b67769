# Start a training without a window that outlives this one; further flags go to it.
& (Join-Path $PSScriptRoot 'run_mario.ps1') launch detached @args
exit $LASTEXITCODE
