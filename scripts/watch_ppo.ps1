# Health of a run: watch_ppo.ps1 -Loop -EveryS 30 goes on until Ctrl-C.
& (Join-Path $PSScriptRoot 'run_mario.ps1') health @args
exit $LASTEXITCODE
