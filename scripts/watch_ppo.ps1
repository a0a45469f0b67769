# Health of a run: watch_ppo.ps1 -Loop -EveryS 30 goes on until Ctrl-C.
[CmdletBinding(PositionalBinding = $false)]
param(
    [string] $Run = '',
    [switch] $Loop,
    [int] $EveryS = 30,
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $More = @()
)
$flags = @('--every-s', "$EveryS")
if ($Run) { $flags += @('--run', $Run) }
if ($Loop) { $flags += '--loop' }
& (Join-Path $PSScriptRoot 'run_mario.ps1') health @flags @More
exit $LASTEXITCODE
