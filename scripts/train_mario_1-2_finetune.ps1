# Start PPO on 1-2 from the shipped weights of 1-1, without a window.
& (Join-Path $PSScriptRoot 'run_mario.ps1') launch finetune_1-2 @args
exit $LASTEXITCODE
