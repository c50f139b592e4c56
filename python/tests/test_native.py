"""The ctypes mirror against the C header: names, values, sizes, offsets, and how it is called."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from typing import Any

import clusterfusion
import pytest
from clusterfusion import _errors, _native
from conftest import ROOT

HEADER = (ROOT / "include" / "clusterfusion.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)

#: cf_error_status → Status: the enums, by their common prefix.
PREFIXES = {
    "cf_dtype": "CF_DTYPE_",
    "cf_backend": "CF_BACKEND_",
    "cf_activation": "CF_ACTIVATION_",
    "cf_finish": "CF_FINISH_",
    "cf_event_kind": "CF_EVENT_",
}


def structs() -> dict[str, list[str]]:
    """Names of the fields of each struct that the header defines."""
    found = re.findall(r"typedef struct (cf_\w+) \{(.*?)\n\} \1;", CODE, flags=re.DOTALL)
    return {name: re.findall(r"(\w+)(?:\[\w+\])?;", body) for name, body in found}


def parameters() -> dict[str, int]:
    """How many parameters each function of the header has."""
    found = re.findall(r"CF_API [\w ]+?\**(cf_\w+)\((.*?)\);", CODE, flags=re.DOTALL)
    return {name: 0 if text == "void" else text.count(",") + 1 for name, text in found}


def status_list() -> list[tuple[str, int, str]]:
    rows = re.findall(r"X\((\w+), (\d+), \d+, (\w+),", CODE)
    return [(name, int(value), python) for name, value, python in rows]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, int]:
    """Sizes and offsets of the structs and values of the enums, as a C compiler sees them."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("header")
    lines = []
    for name, fields in structs().items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in fields:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
            size = f"sizeof((({name} *)0)->{field})"
            lines.append(f'printf("{name}.{field}:size %zu\\n", {size});')
    for name in _native.ENUMS:
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
    for value in re.findall(r"\b(CF_[A-Z0-9_]+) = \d+", CODE):
        lines.append(f'printf("{value} %d\\n", (int){value});')
    source = folder / "measure.c"
    body = "\n".join(lines)
    source.write_text(
        f'#include "clusterfusion.h"\n#include <stdio.h>\nint main(void) {{\n{body}\n}}\n'
    )
    program = folder / "measure"
    subprocess.run([compiler, f"-I{ROOT / 'include'}", source, "-o", program], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split() for line in output.splitlines())}


def test_the_header_is_understood_by_this_test():
    assert len(structs()) >= 15 and len(parameters()) >= 45 and len(status_list()) == 12
    assert structs()["cf_file_info"] == ["name", "format", "bytes"]


def test_each_struct_has_the_fields_of_the_header():
    mirrored = {
        name: [field for field, _ in cls._fields_]
        for name, cls in vars(_native).items()
        if isinstance(cls, type) and issubclass(cls, ctypes.Structure) and name.startswith("cf_")
    }
    assert mirrored == structs()


@pytest.mark.parametrize("name", structs())
def test_sizes_and_offsets_are_the_compilers(name, measured):
    cls: Any = getattr(_native, name)
    assert ctypes.sizeof(cls) == measured[name]
    for field, kind in cls._fields_:
        assert getattr(cls, field).offset == measured[f"{name}.{field}"], field
        assert ctypes.sizeof(kind) == measured[f"{name}.{field}:size"], field


@pytest.mark.parametrize("name", PREFIXES)
def test_enums_have_the_headers_values(name, measured):
    prefix = PREFIXES[name]
    expected = {
        key[len(prefix) :]: value for key, value in measured.items() if key.startswith(prefix)
    }
    assert {item.name: item.value for item in _native.ENUMS[name]} == expected
    assert ctypes.sizeof(_native.cf_enum) == measured[name]


def test_statuses_and_exceptions_are_those_of_the_list():
    assert [(item.name, item.value) for item in _native.Status] == [
        (name, value) for name, value, _ in status_list()
    ]
    for name, value, python in status_list():
        if name == "OK":
            continue
        cls = _errors.BY_STATUS[_native.Status(value)]
        base = {"None": None}.get(python, python)
        assert issubclass(cls, clusterfusion.Error)
        assert base in [parent.__name__ for parent in cls.__mro__]
        assert _native.lib.cf_status_python(value).decode() == python
        assert getattr(clusterfusion, cls.__name__) is cls


def test_each_function_of_the_header_is_declared():
    declared = {name: len(types) - 1 for name, types in _native.PROTOTYPES.items()}
    assert declared == parameters()
    for name, (result, *arguments) in _native.PROTOTYPES.items():
        function = getattr(_native.lib, name)
        assert function.restype is result and list(function.argtypes) == arguments


def test_option_structs_know_their_size():
    options = [cls for cls in vars(_native).values() if isinstance(cls, type)]
    options = [cls for cls in options if issubclass(cls, _native.OptionStruct)]
    with_size = [name for name, fields in structs().items() if fields[0] == "size"]
    assert {cls.__name__ for cls in options} - {"OptionStruct"} == set(with_size)
    for name in with_size:
        cls = getattr(_native, name)
        assert cls().size == ctypes.sizeof(cls)


def test_flags_are_the_headers():
    for name in ("ENCODE_NO_SPECIAL", "DECODE_SKIP_SPECIAL"):
        value = re.search(rf"#define CF_{name} (\d+)u", CODE)
        assert value and int(value[1]) == getattr(_native, name)


def test_the_version_is_the_headers():
    numbers = [
        re.search(rf"CF_VERSION_{part} (\d+)", CODE)[1] for part in ("MAJOR", "MINOR", "PATCH")
    ]
    assert clusterfusion.__version__ == ".".join(numbers)
