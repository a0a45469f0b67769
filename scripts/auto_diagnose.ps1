# Judge every new checkpoint: a CSV line each, a film where it comes far.
param([string] $Run = '', [int] $EveryS = 60)
$flags = @('--watch', '--every-s', "$EveryS")
if ($Run) { $flags += @('--run', $Run) }
& (Join-Path $PSScriptRoot 'run_mario.ps1') diagnose @flags
exit $LASTEXITCODE
