# Judge every new checkpoint: a CSV line each, a film where it comes far.
[CmdletBinding(PositionalBinding = $false)]
param(
    [string] $Run = '',
    [int] $EveryS = 60,
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $More = @()
)
$flags = @('--watch', '--every-s', "$EveryS")
if ($Run) { $flags += @('--run', $Run) }
& (Join-Path $PSScriptRoot 'run_mario.ps1') diagnose @flags @More
exit $LASTEXITCODE
