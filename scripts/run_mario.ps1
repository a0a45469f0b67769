# usage: run_mario.ps1 train|teach|dreamer|plan|eval|watch|monitor|render|compare|search|stop|health|diagnose|backup|launch|push|pull|tensorboard|install|smoke|bench|test|python [flags of that command]
#
# Finds a Python 3.13 and hands everything to front_door.py, which makes .venv, installs and runs.
# Paths in the flags are those of the folder you are in.

# A file that is called python proves nothing: Windows puts one there that only opens the Store.
function Test-Python([string[]] $Candidate) {
    $first = $Candidate[0]
    $rest = @($Candidate | Select-Object -Skip 1)
    if (-not (Get-Command $first -CommandType Application -ErrorAction SilentlyContinue)) {
        return $false
    }
    & $first @rest -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' *> $null
    return $LASTEXITCODE -eq 0
}

$candidates = New-Object System.Collections.ArrayList
# Only a finished environment: a cut off one has to be built anew by another Python.
$environment = Join-Path (Split-Path -Parent $PSScriptRoot) '.venv'
if (Test-Path (Join-Path $environment 'installed.json')) {
    [void] $candidates.Add(@((Join-Path $environment 'Scripts\python.exe')))
}
if ($env:PYTHON) {
    [void] $candidates.Add(@($env:PYTHON))
}
[void] $candidates.Add(@('py', '-3.13'))
[void] $candidates.Add(@('python3.13'))
[void] $candidates.Add(@('python'))
if (Get-Command uv -CommandType Application -ErrorAction SilentlyContinue) {
    $found = & uv python find 3.13 2> $null
    if ($LASTEXITCODE -eq 0) {
        [void] $candidates.Add(@("$found"))
    }
}

foreach ($candidate in $candidates) {
    if (Test-Python $candidate) {
        $first = $candidate[0]
        $rest = @($candidate | Select-Object -Skip 1)
        & $first @rest (Join-Path $PSScriptRoot 'front_door.py') @args
        exit $LASTEXITCODE
    }
}

# uv can fetch one, for this user alone; somebody has to be there to say so.
if ((Get-Command uv -CommandType Application -ErrorAction SilentlyContinue) -and -not [Console]::IsInputRedirected) {
    $answer = Read-Host 'run_mario: no Python 3.13 here. Fetch one with uv? [y/N]'
    if ($answer -match '^[yY]') {
        & uv python install 3.13
        if ($LASTEXITCODE -eq 0) {
            & $PSCommandPath @args
            exit $LASTEXITCODE
        }
    }
}

[Console]::Error.WriteLine('run_mario: no Python 3.13 found: install it (python.org, "winget install Python.Python.3.13" or "uv python install 3.13") or set the PYTHON variable to one')
exit 2
