"""Where compiled code is kept: once a machine, wherever one may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastnes import compiled

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was found before is forgotten, before and after."""
    compiled.cache_folder.cache_clear()
    yield
    compiled.cache_folder.cache_clear()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No NUMBA_CACHE_DIR, and a folder for temporary files that is this test's."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_code_is_kept_in_the_users_cache_folder(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = tmp_path / "home" / ".cache" / "mario-machine-learning"
    assert compiled.cache_folder() == place / f"fastnes-{compiled.cache_key()}"
    assert compiled.cache_folder().stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_numba_cache_dir_says_where(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert compiled.cache_folder().parent == tmp_path / "mine"


@pytest.mark.skipif(os.name == "nt", reason="users and modes of POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_whatever_the_umask_nobody_else_may_put_code_there(
    umask: int, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(umask)
    try:
        folder = compiled.cache_folder()
    finally:
        os.umask(before)
    for each in (folder, folder.parent):
        assert each.stat().st_mode & 0o777 == 0o700


def test_another_processor_or_version_has_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = set()
    try:
        for module, name in (
            ("llvmlite.binding", "get_host_cpu_name"),
            ("platform", "python_version"),
            ("os", "getcwd"),  # decides nothing
        ):
            with monkeypatch.context() as patch:
                patch.setattr(f"{module}.{name}", lambda: "another")
                compiled.cache_key.cache_clear()
                keys.add(compiled.cache_key())
    finally:
        compiled.cache_key.cache_clear()
    assert len(keys) == 3
    assert compiled.cache_key() in keys


AS_USER = """
import os, sys, tempfile
from fastnes import compiled
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
os.environ["HOME"] = "/nonexistent"
compiled.cache_folder.cache_clear()
print(compiled.cache_folder())
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="root alone becomes other users"
)
def test_two_users_share_no_code_though_one_installed_it() -> None:
    """The installation is another's, homes are not theirs, and the first plants a folder."""
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name)
        shared.chmod(0o1777)
        planted = shared / "mario-machine-learning-60002"
        planted.mkdir(mode=0o777)
        os.chown(planted, 60001, 60001)
        found = []
        for user in ("60001", "60002"):
            done = subprocess.run(
                [sys.executable, "-c", AS_USER, user],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": name},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("\n") == 1
            assert "NUMBA_CACHE_DIR" in done.stderr
            found.append(Path(done.stdout.strip()).parent)
        assert [folder.stat().st_uid for folder in found] == [60001, 60002]
        assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in found)
        assert planted not in found


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.skipif(os.name == "nt", reason="users and modes of POSIX")
@pytest.mark.parametrize("home", ["none", "not writable"])
def test_without_a_home_code_is_kept_among_temporary_files(
    home: str,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setenv("HOME", "/dev/null")
    folder = compiled.cache_folder()
    assert folder.parent == temporary / f"mario-machine-learning-{os.getuid()}"
    said = capsys.readouterr().err
    assert "NUMBA_CACHE_DIR" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="users and modes of POSIX")
def test_a_temporary_folder_that_others_may_write_to_is_not_read(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    theirs = temporary / f"mario-machine-learning-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    assert compiled.cache_folder().parent != theirs


def test_another_checkout_compiles_nothing_and_writes_nothing_beside_its_code(
    tmp_path: Path,
) -> None:
    import fastnes

    fastnes.warm_up()
    cache = compiled.cache_folder().parent
    shutil.copytree(ROOT / "fastnes", tmp_path / "fastnes", ignore=shutil.ignore_patterns("__py*"))
    for path in (tmp_path / "fastnes", *(tmp_path / "fastnes").iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.name for path in (tmp_path / "fastnes").iterdir())
    done = subprocess.run(
        [sys.executable, "-B", "-c", "import fastnes; fastnes.Machine().step(0)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    (tmp_path / "fastnes").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "compiling" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "fastnes").iterdir()) == before
