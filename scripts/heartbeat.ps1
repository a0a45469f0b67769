# One line a run, for a log or a scheduled task: exit code 1 if one is dead, stalled or collapsed.
[CmdletBinding(PositionalBinding = $false)]
param(
    [string] $Run = '',
    [switch] $Loop,
    [int] $EveryS = 60,
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $More = @()
)
$flags = @('--brief', '--every-s', "$EveryS")
if ($Run) { $flags += @('--run', $Run) }
if ($Loop) { $flags += '--loop' }
& (Join-Path $PSScriptRoot 'run_mario.ps1') health @flags @More
exit $LASTEXITCODE
