from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.kernels.build.cache import (
    LIBRARY_VARIABLE,
    BuildRecord,
    build_lock,
    built_library,
    cache_folder,
    record_path,
    remove_left_scratch,
    scratch_folder,
)
from meshwright.kernels.build.sources import BUILD_SCHEMA_VERSION, library_digest, sources_digest


def _write(library: Path, sources: str, schema_version: int = BUILD_SCHEMA_VERSION) -> Path:
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"whole")
    record = BuildRecord(
        schema_version=schema_version,
        sources=sources,
        cuda="13.0.88",
        torch="2.11.0",
        kernels=(),
        size_bytes=5,
        library=library_digest(library),
    )
    record_path(library).write_bytes(msgspec.json.encode(record))
    return library


def test_nothing_is_built_in_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert built_library() is None


def test_a_build_of_these_sources_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _write(cache_folder() / "0123456789abcdef-cuda13.0.88" / "libmeshwright_kernels.so", "0123456789abcdef")
    assert built_library() is None
    library = _write(cache_folder() / f"{sources_digest()}-cuda13.0.88" / "libmeshwright_kernels.so", sources_digest())
    found = built_library()
    assert found is not None
    assert found.path == str(library)


@pytest.mark.parametrize(
    ("sources", "schema_version", "problem"),
    [("0123456789abcdef", BUILD_SCHEMA_VERSION, "built from other sources"), ("", 99, "99, expected 2")],
)
def test_a_named_library_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: str, schema_version: int, problem: str
) -> None:
    library = _write(tmp_path / "lib.so", sources, schema_version)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    with pytest.raises(InputError, match=problem):
        built_library()


def test_a_named_library_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "lib.so"))
    with pytest.raises(InputError, match="is not there"):
        built_library()


def test_a_damaged_build_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = _write(cache_folder() / f"{sources_digest()}-cuda13.0.88" / "libmeshwright_kernels.so", sources_digest())
    assert built_library() is not None
    whole = library.read_bytes()
    library.write_bytes(bytes(len(whole)))
    assert built_library() is None
    library.write_bytes(whole)
    record_path(library).write_text("{")
    assert built_library() is None


def test_a_named_library_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _write(tmp_path / "lib.so", sources_digest())
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    library.write_bytes(b"who")
    with pytest.raises(InputError, match="has 3 bytes, expected 5: copy it again"):
        built_library()
    library.write_bytes(b"who\0\0")
    with pytest.raises(InputError, match=r"is not as lib\.json has it: copy it again"):
        built_library()


def test_a_folder_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="is a folder, expected the library itself"):
        built_library()


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="builds cannot be kept there"), build_lock("some", print):
        pass


def test_scratch_that_a_killed_build_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a build which is under way stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with build_lock("killed", print):
        killed = cache_folder() / ".build-killed"
        killed.mkdir()
        (killed / "route.o").write_bytes(b"half")
    with build_lock("running", print), scratch_folder("running") as running:
        remove_left_scratch()
        assert running.is_dir()
        assert not killed.exists()
    assert not running.exists()
