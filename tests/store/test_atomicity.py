"""Folders and files are there as a whole or not at all, whenever the process dies."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from softprompt.errors import BadInput, StorageFailure
from softprompt.store import (
    read_folder,
    read_prompt,
    save_prompt,
    write_file,
    write_folder,
)

from kit import equal
from store_kit import a_prompt


class TestAtomicity:
    def test_the_manifest_is_written_last_and_everything_is_flushed_before_the_rename(self, tmp_path, monkeypatch):
        events, paths = [], {}
        fsync, rename = os.fsync, os.rename

        def noted_fsync(descriptor):
            events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            fsync(descriptor)

        def noted_rename(source, target):
            paths["temporary"] = Path(source)
            events.append("rename")
            rename(source, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        write_folder(tmp_path / "t", {"a": b"1", "b": b"2"}, what="a test")
        temporary = paths["temporary"]
        assert temporary.parent == tmp_path
        assert events == [
            "fsync a",
            "fsync b",
            "fsync manifest.json",
            f"fsync {temporary.name}",
            "rename",
            f"fsync {tmp_path.name}",
        ]

    @pytest.mark.parametrize("call", ["os.fsync", "os.rename", "os.open", "Path.mkdir", "Path.open"])
    def test_a_disk_that_fails_at_any_call_loses_nothing(self, tmp_path, monkeypatch, call):
        folder = save_prompt(a_prompt(seed=1), tmp_path / "p")
        owner = Path if call.startswith("Path") else os
        name, number, failed = call.split(".")[1], 0, 0
        original = getattr(owner, name)
        for number in range(100):
            calls = iter(range(1000))

            def failing(*args, _number=number, _calls=calls, **kwargs):
                # Removing what was replaced (dir_fd) comes after success; the next write mends a failure.
                if "dir_fd" not in kwargs and next(_calls) == _number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, failing)
                try:
                    save_prompt(a_prompt(seed=2), folder, replace=True)
                    break
                except StorageFailure as error:
                    failed += "No space left on device; what was stored before is intact" in str(error)
            assert equal(read_prompt(folder), a_prompt(seed=1))
            assert os.listdir(tmp_path) == ["p"]
        assert failed == number >= 1
        assert equal(read_prompt(folder), a_prompt(seed=2))
        assert os.listdir(tmp_path) == ["p"]

    def test_a_full_disk_at_any_byte_keeps_the_last_checkpoint(self, tmp_path):
        script = """
import os, resource, sys
from pathlib import Path
import torch
from softprompt.errors import StorageFailure
from softprompt.store import latest_checkpoint, save_checkpoint

folder = Path(sys.argv[1])
tensors = {"v": torch.arange(200.0)}
save_checkpoint(folder, 1, tensors, {"good": True})
largest = max(p.stat().st_size for p in (folder / "step-000001").iterdir())
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in range(0, largest, 7):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save_checkpoint(folder, 2, tensors, {"good": False})
        sys.exit(f"{limit} bytes were enough")
    except StorageFailure as error:
        assert "the checkpoint of step 2" in str(error) and "\\n" not in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.listdir(folder) == ["step-000001"], os.listdir(folder)
    assert latest_checkpoint(folder).state == {"good": True}
"""
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_ctrl_c_while_writing_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupted(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_prompt(a_prompt(), tmp_path / "p")
        assert os.listdir(tmp_path) == []

    def test_a_place_below_a_file_is_a_storage_failure(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailure, match=r"Not a directory|File exists"):
            save_prompt(a_prompt(), tmp_path / "file" / "p")

    def test_another_writers_folder_is_not_pushed_aside(self, tmp_path, monkeypatch):
        mkdir = Path.mkdir

        def overtaken(path, *args, **kwargs):
            mkdir(path, *args, **kwargs)
            if path.suffix == ".tmp":
                mkdir(tmp_path / "t")
                (tmp_path / "t" / "theirs").write_text("theirs")

        monkeypatch.setattr(Path, "mkdir", overtaken)
        with pytest.raises(StorageFailure):
            write_folder(tmp_path / "t", {"a": b"ours"}, what="a test")
        assert os.listdir(tmp_path) == ["t"]
        assert os.listdir(tmp_path / "t") == ["theirs"]

    def test_files_beside_the_listed_ones_are_ignored(self, tmp_path):
        folder = write_folder(tmp_path / "t", {"a": b"1"}, what="a test")
        (folder / "README.md").write_text("mine")
        assert read_folder(folder) == {"a": folder / "a"}

    def test_a_name_with_pattern_characters_is_a_name(self, tmp_path):
        bystander = tmp_path / ".ab.0123abcd.tmp"
        bystander.mkdir()
        write_folder(tmp_path / "[a]b", {"a": b"1"}, what="a test")
        assert bystander.is_dir()

    def test_a_link_that_leads_nowhere_is_not_replaced(self, tmp_path):
        (tmp_path / "report.json").symlink_to("nowhere")
        with pytest.raises(BadInput, match="exists already"):
            write_file(tmp_path / "report.json", b"new", what="the report")
        assert (tmp_path / "report.json").is_symlink()

    def test_a_place_where_nothing_can_be_removed_either_says_what_was_not_written(self, tmp_path, monkeypatch):
        def read_only(*arguments, **keywords):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "open", read_only)
        monkeypatch.setattr(Path, "unlink", read_only)
        with pytest.raises(StorageFailure, match=r"could not write the record to .*: Read-only file system; what was"):
            write_file(tmp_path / "run.json", b"new", what="the record")

    def test_a_file_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        path = write_file(tmp_path / "run.json", b"old", what="the record")
        with pytest.raises(BadInput, match="exists already"):
            write_file(path, b"new", what="the record")

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageFailure, match="could not write the record"):
                write_file(path, b"new", what="the record", replace=True)
        assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["run.json"])
        with path.open("rb") as before:
            assert write_file(path, b"new", what="the record", replace=True).read_bytes() == b"new"
            assert before.read() == b"old"  # another file has taken the name; this one was not written into
