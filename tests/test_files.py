from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from workbench.errors import InputError, OutputError, WorkbenchError
from workbench.files import (
    atomic,
    check_writable,
    claimed,
    is_locked,
    locked,
    portable_name,
    refuse_overwriting,
    replace,
    write_bytes,
)
from workbench.images import save_image

unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@unhurried
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_last_bytes_written_are_read(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes" / "a.bin"
    for data in (first, second):
        write_bytes(path, data)
        assert path.read_bytes() == data
    assert listing(path.parent) == ["a.bin"]


def test_file_appears_only_when_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with atomic(path) as beside:
        beside.write_text("half")
        assert not path.exists()
        assert beside.parent == path.parent
        assert beside.suffix == ".mp4"
    assert path.read_text() == "half"
    assert listing(tmp_path) == ["a.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="folders are not synced there")
def test_what_gets_its_name_is_on_the_disk_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int | str] = []
    fsync, move = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def moved(source: Path, target: Path) -> Path:
        done.append(target.name)
        return move(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    folder = tmp_path / "folder"
    write_bytes(folder / "a.bin", b"all of it")
    assert done == [(folder / "a.bin").stat().st_ino, "a.bin", folder.stat().st_ino]
    done.clear()
    replace(folder, tmp_path / "run")
    assert done == [(tmp_path / "run").stat().st_ino, "run", tmp_path.stat().st_ino]


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be replaced")
def test_who_reads_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        write_bytes(path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, InputError, KeyboardInterrupt])
def test_error_leaves_the_old_file_and_nothing_beside(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def spoil() -> None:
        with atomic(path) as beside:
            beside.write_text("new")
            raise error("on the way")

    with pytest.raises(error, match="on the way"):
        spoil()
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_said_in_one_sentence(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"

    def fill() -> None:
        with atomic(path) as beside:
            beside.write_text("new")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError) as caught:
        fill()
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    assert caught.value.exit_code == 1
    assert listing(tmp_path) == []


def test_other_trouble_does_not_ask_for_space(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, atomic(tmp_path / "a.txt"):
        raise OSError(errno.EROFS, "Read-only file system")
    assert "read-only file system" in str(caught.value)
    assert "space" not in str(caught.value)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may be longer than 20,000 bytes."""
    resource = pytest.importorskip("resource", reason="needs resource limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("before", [None, b"old"])
def test_picture_that_does_not_fit_on_the_disk(
    tmp_path: Path, before: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "big.png"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(WorkbenchError) as caught:
        save_image(torch.rand(1, 3, 256, 256), path)
    sentence = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in sentence
    assert str(path) in sentence
    assert "free some space" in sentence
    assert capfd.readouterr() == ("", "")
    assert listing(tmp_path) == ([] if before is None else ["big.png"])
    assert before is None or path.read_bytes() == before


def test_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    check_writable(path)
    assert listing(tmp_path) == []
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "one" / "two" / "a.txt")
    assert listing(tmp_path / "one" / "two") == []


def refuses(path: str | Path) -> str:
    """The sentence with which `path` is refused, the same before and at writing."""
    with pytest.raises(OutputError) as early:
        check_writable(path)
    with pytest.raises(OutputError) as late:
        write_bytes(path, b"new")
    assert str(early.value) == str(late.value)
    assert str(early.value).startswith(f"{path} cannot be written: ")
    assert str(early.value).endswith(".")
    return str(early.value)


def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    refuses(tmp_path / "file" / "a.txt")
    refuses(tmp_path / "file" / "deeper" / "a.txt")
    assert (tmp_path / "file").read_text() == "old"


def test_folder_is_no_place_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    assert "folder" in refuses(tmp_path / "folder")
    assert listing(tmp_path / "folder") == []
    monkeypatch.chdir(tmp_path)
    assert "folder" in refuses(".")
    assert listing(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "permission" in refuses(tmp_path / "a.txt")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with `me.jpg`, links to it, and a folder of sketches."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sketches" / "old").mkdir(parents=True)
    for name in ("me.jpg", "other.jpg", "sketches/a.png", "sketches/old/b.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "soft.jpg").symlink_to("me.jpg")
    (tmp_path / "hard.jpg").hardlink_to("me.jpg")  # as ME.JPG is where case does not matter
    (tmp_path / "linked").symlink_to("sketches")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "inputs", "sentence"),
    [
        ("me.jpg", ["me.jpg"], "me.jpg is read, and would be written over; give"),
        ("./sketches/../me.jpg", ["me.jpg"], "me.jpg is read, and would"),
        ("me.jpg", ["other.jpg", "soft.jpg"], "me.jpg is soft.jpg, which is read"),
        ("soft.jpg", ["me.jpg"], "soft.jpg is me.jpg, which is read"),
        ("hard.jpg", ["me.jpg"], "hard.jpg is me.jpg, which is read"),
        ("linked/a.png", ["sketches"], "linked/a.png is sketches/a.png, which is read"),
        ("sketches", ["linked"], "sketches is written to, and linked is read from there"),
        ("sketches", ["sketches/old/b.png"], "sketches is written to, and sketches/old/b.png"),
        ("linked", ["sketches/old"], "linked is written to, and sketches/old is read"),
        (".", ["me.jpg"], ". is written to, and me.jpg is read from there; name another folder."),
    ],
)
def test_what_is_read_is_not_written_over(
    output: str, inputs: list[str], sentence: str, brought: Path
) -> None:
    for named in (output, brought / output):
        with pytest.raises(InputError):
            refuse_overwriting([named], inputs)
    with pytest.raises(InputError) as caught:
        refuse_overwriting(["new.png", output], ["sample:swirls", "", *inputs])
    assert sentence in str(caught.value)


def test_what_is_not_read_may_be_written_over(brought: Path) -> None:
    refuse_overwriting(
        ["other.jpg", "new.jpg", "sketches/new.png", "sketches/old", "nowhere/x.png"],
        ["me.jpg", "soft.jpg", "sketches", "sketches/a.png", "nowhere.jpg", "a\0b", "x" * 5000],
    )
    refuse_overwriting([], ["me.jpg"])
    refuse_overwriting(["sketches/old"], ["sketches"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_without_locks_is_one_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError) as caught, claimed(tmp_path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/.lock cannot be written: its disk has no file locks, which keep runs apart;"
        " write to another disk."
    )
    assert is_locked(tmp_path / ".lock") == (tmp_path / ".lock").exists()  # to be on the safe side


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    with locked(lock), pytest.raises(Timeout), locked(lock, seconds=0.05):
        pass
    with locked(lock):
        assert is_locked(lock)
    with locked(lock, seconds=-1):
        pass


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("aux", "aux_"),
        ("AUX.mp4", "AUX_.mp4"),
        ("con.tar.gz", "con_.tar.gz"),
        ("lpt1", "lpt1_"),
        ("com\u00b9", "com\u00b9_"),
        ("auxiliary", "auxiliary"),
        ("my aux", "my aux"),
        ("com10", "com10"),
        ("console.png", "console.png"),
    ],
)
def test_names_that_windows_takes_for_devices(name: str, portable: str) -> None:
    assert portable_name(name) == portable
