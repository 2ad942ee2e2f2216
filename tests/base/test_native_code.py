"""Native code is compiled once, checked before it is loaded, and kept where nobody else can write."""

import os
import stat

import pytest

from unshaken.base import native_code
from unshaken.base.native_code import NativeCode, Unavailable, compiler_here, own_folder

try:
    compiler_here()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A function that returns 42, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native_code, "FLAGS", ("-fPIC", "-shared"))
    file = tmp_path / "answer.c"
    file.write_text("int answer(void) { return 42; }\n")
    return file


def made() -> list:
    return sorted(own_folder().glob("*.so"))


def test_it_is_compiled_once(source, monkeypatch):
    with pytest.raises(Unavailable, match="not compiled yet"):
        NativeCode(source).load(build=False)
    assert NativeCode(source).load().answer() == 42
    monkeypatch.setattr(NativeCode, "_build", None)
    assert NativeCode(source).load(build=False).answer() == 42


def test_another_source_or_flag_is_another_library(source, monkeypatch):
    NativeCode(source).load()
    source.write_text("int answer(void) { return 43; }\n")
    assert NativeCode(source).load().answer() == 43
    monkeypatch.setattr(native_code, "FLAGS", ("-fPIC", "-shared", "-O1"))
    NativeCode(source).load()
    assert len(made()) == 3


def test_a_library_that_was_changed_is_made_anew(source):
    NativeCode(source).load()
    (library,) = made()
    whole = library.read_bytes()
    library.unlink()
    library.write_bytes(whole[:-1] + b"?")
    with pytest.raises(Unavailable):
        NativeCode(source).load(build=False)
    assert NativeCode(source).load().answer() == 42
    assert library.read_bytes()[-1:] == whole[-1:]


def test_a_folder_that_others_can_write_to_is_refused(source):
    NativeCode(source).load()
    folder = own_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(Unavailable, match="chmod 700"):
        NativeCode(source).load()


def test_the_compiler_and_its_errors_are_named(source, monkeypatch):
    source.write_text("int answer(void) { return x; }\n")
    with pytest.raises(Unavailable, match=r"failed: .*answer"):
        NativeCode(source).load()
    assert not made()
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(Unavailable, match="no C compiler"):
        compiler_here()
