"""The shared library gives the header's functions and nothing else."""
import re
import shutil
import subprocess

import pytest
from conftest import PROGRAM, ROOT

LIBRARY = PROGRAM.parent.parent / "libclusterfusion.so"


@pytest.mark.skipif(shutil.which("nm") is None or not LIBRARY.exists(), reason="no nm, no library")
def test_exported_symbols_are_the_headers_functions():
    header = (ROOT / "include" / "clusterfusion.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    declared = set(re.findall(r"\b(cf_\w+)\(", header))
    listing = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", LIBRARY],
                             capture_output=True, text=True, check=True).stdout
    exported = {line.split()[0].split("@")[0] for line in listing.splitlines()}
    assert exported == declared
