"""What a wheel takes, as it is counted."""

import re
import zipfile

import pytest

from benchmarks import size

RECORDS = {
    "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "tiny/__init__.py,,\ntiny/code.kernels,,\n",
}


@pytest.fixture
def wheel(tmp_path):
    """A wheel of a module of 1.2 MB and of 0.4 MB of machine code."""
    pytest.importorskip("pip")
    path = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/__init__.py", "# a line.\n" * 120_000)
        archive.writestr("tiny/code.kernels", bytes(400_000))
        for name, content in RECORDS.items():
            archive.writestr(f"tiny-1.dist-info/{name}", content)
    return path


def test_every_file_is_counted_once_and_bytecode_apart(wheel, capsys):
    sizes = size.installed_sizes(wheel)
    assert sizes["Python"] == 1_200_000
    assert sizes["machine code"] == 400_000
    assert 0 < sizes["bytecode, which pip writes"] < 1000
    assert sum(map(len, RECORDS.values())) < sizes["everything else"] < 2000
    size.main([str(wheel)])
    found = dict(re.findall(r"\| ([\w, ]+?) +\| +([\d.]+) \|", capsys.readouterr().out))
    assert found["the wheel"] == found["installed, without bytecode"] == "1.60"
