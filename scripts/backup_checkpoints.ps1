# Copy checkpoints to another place before the trainer drops them.
[CmdletBinding(PositionalBinding = $false)]
param(
    [string] $Run = '',
    [switch] $Loop,
    [int] $EveryS = 600,
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $More = @()
)
$flags = @('--every-s', "$EveryS")
if ($Run) { $flags += @('--run', $Run) }
if ($Loop) { $flags += '--loop' }
& (Join-Path $PSScriptRoot 'run_mario.ps1') backup @flags @More
exit $LASTEXITCODE
