"""Files of strangers are opened without blocking, within limits, and inside their folder."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from ssd.common.errors import DataError
from ssd.common.text import one_line, printable
from ssd.common.untrusted_files import check_inside, open_untrusted, read_untrusted
from ssd.common.untrusted_text import parse_json, parse_yaml, read_json, read_yaml

ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


def test_regular_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert read_untrusted(path) == b"content"
    assert read_untrusted(path, max_bytes=7) == b"content"
    with open_untrusted(path) as file:
        assert file.read() == b"content"


def test_other_than_regular_files_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("fifo", "folder", "socket", "missing", "a\0b"):
            with pytest.raises(DataError) as error:
                read_untrusted(tmp_path / name)
            assert str(error.value).startswith(str(tmp_path / name))
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(DataError, match=device):
            open_untrusted(device)


def test_large_files_are_refused_by_size(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="larger than the 1000 bytes"):
        read_untrusted(tmp_path / "large", max_bytes=1000)


def test_links_must_stay_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-2"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "inside").symlink_to("sub")
    (root / "out").symlink_to("../root-2")
    (tmp_path / "link").symlink_to("root")
    check_inside(root / "inside" / "x", root)
    check_inside(tmp_path / "link" / "sub", tmp_path / "link")
    for path in (root / "out", root / "out" / "x", root / ".." / "x"):
        with pytest.raises(DataError, match="leads out of"):
            check_inside(path, root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'a': 1}", ":1: not JSON"),
        ('{"a": 1,\n"a": 2}', "the key 'a' is twice"),
        ('{"x": [{"b": 1, "b": 1}]}', "the key 'b' is twice"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("1" * 10_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"name.*{message}"):
        parse_json(text, name="name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", ":1: not YAML"),
        ("a: 1\nb: 2\na: 3", ":1: not YAML: the key 'a' is there twice"),
        ("[" * 100_000 + "]" * 100_000, "nested more than 100 levels"),
        ("a: &a [*a]", "an alias within its own value"),
        (ALIAS_BOMB, "aliases multiply"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: \x1b", "not YAML"),
        ("a: 2024-13-45", "not YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"name.*{message}"):
        parse_yaml(text, name="name")


def test_plain_json_and_yaml_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}]}')
    (tmp_path / "a.yaml").write_text("x: &x [1, 2]\ny: *x\nz: {<<: {a: 1}, b: 2}\n")
    assert read_json(tmp_path / "a.json") == {"a": [1, {"b": None}]}
    assert read_json(tmp_path / "a.json", each=lambda item: {**item, "n": len(item)}) == {
        "a": [1, {"b": None, "n": 1}],
        "n": 1,
    }
    assert read_yaml(tmp_path / "a.yaml") == {"x": [1, 2], "y": [1, 2], "z": {"a": 1, "b": 2}}


def test_foreign_text_is_printed_with_escapes() -> None:
    assert printable("caf\u00e9 \u732b\n\ttab") == "caf\u00e9 \u732b\n\ttab"
    assert printable("\x1b]0;x\x07") == "\\x1b]0;x\\x07"
    assert printable("a\r\x00\x9b\u202egpj") == "a\\r\\x00\\x9b\\u202egpj"
    assert printable("\udcff \ud800") == "\\xff \\ud800"
    assert one_line("a\nb\tc") == "a\\nb\\tc"
