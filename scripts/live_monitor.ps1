# The web page of all runs.
& (Join-Path $PSScriptRoot 'run_mario.ps1') monitor --runs-root runs @args
exit $LASTEXITCODE
