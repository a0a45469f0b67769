# Start DreamerV3 with Plan2Explore without a window.
& (Join-Path $PSScriptRoot 'run_mario.ps1') launch plan2explore @args
exit $LASTEXITCODE
