# Judge the newest checkpoint, sampled and argmax, on the CPU beside the training.
& (Join-Path $PSScriptRoot 'run_mario.ps1') diagnose @args
exit $LASTEXITCODE
