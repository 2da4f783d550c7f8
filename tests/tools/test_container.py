"""The file format: the package safetensors agrees on it, and damage of every kind is noticed."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from fastbp import container, files

ARRAYS = {
    "weights": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "bytes": np.arange(5, dtype=np.uint8),
    "flag": np.array(True),
    "mask": np.array([[True, False, True]]),
    "none": np.empty((0, 3)),
    "half": np.array([1.5, -2, np.nan], np.float16),
    "numbers": np.array([-(2**63), 2**63 - 1]),
    "double": np.array([[[np.pi, np.inf, -0.0]]]),
    **{f"of {code}": np.array([1, 2, 3], code) for code in "bBhHiIqQ"},
    "Größe \U0001f4cf": np.ones(3),
}
DESCRIPTION = {
    "text": 'a "quoted" Ü \U0001f4cf \ud800',
    "list": [1, 2.5, None, True],
    "deep": {"a": [{}]},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    container.write(path, ARRAYS, DESCRIPTION)
    return path


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def parts_of(content):
    """The header as Python objects, and the bytes after it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.smoke
def test_round_trip(path):
    arrays, description = container.read(path)
    assert_equal(arrays, ARRAYS)
    assert description == DESCRIPTION
    for array in arrays.values():
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.dtype.isnative


def test_layouts_and_byte_orders(tmp_path):
    given = {
        "fortran": np.asfortranarray(ARRAYS["weights"]),
        "strided": np.arange(20.0)[::-3],
        "big": np.array([1, 2, 300], ">i4"),
        "read-only": np.broadcast_to(np.float32(2), (2, 3)),
        "booleans of any byte": np.array([0, 1, 255, 2], np.uint8).view(bool),
    }
    container.write(tmp_path / "file", given, {})
    arrays, _ = container.read(tmp_path / "file")
    expected = {name: np.ascontiguousarray(array) for name, array in given.items()}
    expected["big"] = expected["big"].astype("i4")
    expected["booleans of any byte"] = np.array([False, True, True, True])
    assert_equal(arrays, expected)


# ---- the package as the oracle ------------------------------------------------------------------


def test_the_package_reads_our_files(path):
    found = safetensors.numpy.load_file(path)
    assert_equal({name: found[name] for name in ARRAYS}, ARRAYS)
    with safetensors.safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["fastbp"]) == DESCRIPTION


@pytest.mark.parametrize("metadata", [None, {"format": "np", "who": "the package"}])
def test_we_read_the_packages_files(metadata, tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "file", metadata)
    arrays, description = container.read(tmp_path / "file")
    assert_equal({name: arrays[name] for name in ARRAYS}, ARRAYS)
    assert arrays.keys() == ARRAYS.keys()
    assert description == {}


def test_empty_files(tmp_path):
    container.write(tmp_path / "ours", {}, {})
    assert container.read(tmp_path / "ours") == ({}, {})
    assert safetensors.numpy.load_file(tmp_path / "ours") == {}
    safetensors.numpy.save_file({}, tmp_path / "theirs")
    assert container.read(tmp_path / "theirs") == ({}, {})


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 8])
def test_every_flipped_bit_is_noticed(path, step):
    """Weights of another value are another model, and nothing about them looks wrong."""
    content = path.read_bytes()
    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % step)
        path.write_bytes(damaged)
        try:
            arrays, description = container.read(path)
        except ValueError:
            continue
        # A space became another one, or fastbp's description the metadata of an unknown program.
        assert_equal(arrays, ARRAYS)
        assert description in (DESCRIPTION, {})


def test_every_single_bit(tmp_path):
    """Of a small file: it is noticed, or what is read is the same, but for a lost description."""
    path, arrays = tmp_path / "file", {"x": np.arange(3.0), "mask": np.array([True, False])}
    container.write(path, arrays, {"a": [1, "b"]})
    content = bytearray(path.read_bytes())
    n_lost = 0
    for i in range(8 * len(content)):
        content[i // 8] ^= 1 << i % 8
        path.write_bytes(content)
        content[i // 8] ^= 1 << i % 8
        try:
            found, description = container.read(path)
        except ValueError:
            continue
        assert_equal(found, arrays)
        assert description in ({"a": [1, "b"]}, {}), i
        n_lost += not description
    assert n_lost < 8 * len("fastbp")  # where another key stands instead


def test_every_truncation_is_noticed(path):
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"truncated|no JSON object"):
            container.read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"damaged: \d+ bytes, where"):
        container.read(path)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "n_bytes", "message"),
    [
        ({"x": ENTRY | {"dtype": "BF16"}}, 24, "dtype 'BF16', which NumPy does not know"),
        ({"x": ENTRY | {"dtype": "f32"}}, 24, "dtype 'f32'"),
        ({"x": ENTRY | {"dtype": ["F32"]}}, 24, "dtype"),
        ({"x": ENTRY | {"dtype": None}}, 24, "dtype None"),
        ({"x": ENTRY | {"dtype": "F64"}}, 24, "has 24 bytes, not the 48 of shape"),
        ({"x": ENTRY | {"shape": [2, 4]}}, 24, "has 24 bytes, not the 32 of shape"),
        ({"x": ENTRY | {"shape": [-2, -3]}}, 24, "shape"),
        ({"x": ENTRY | {"shape": [2.0, 3]}}, 24, "shape"),
        ({"x": ENTRY | {"shape": [True, 6]}}, 24, "shape"),
        ({"x": ENTRY | {"shape": "23"}}, 24, "shape '23'"),
        ({"x": ENTRY | {"shape": [1] * 33}}, 24, "shape"),
        ({"x": ENTRY | {"shape": [2**32, 2**32], "data_offsets": [0, 0]}}, 0, "shape"),
        ({"x": ENTRY | {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}, 0, "shape"),
        ({"x": ENTRY | {"shape": [10**30]}}, 24, "shape"),
        ({"x": ENTRY | {"data_offsets": [0, 24, 48]}}, 24, "data_offsets"),
        ({"x": ENTRY | {"data_offsets": [24, 0]}}, 24, "has -24 bytes"),
        ({"x": ENTRY | {"data_offsets": [-24, 0]}}, 24, "data_offsets"),
        ({"x": ENTRY | {"data_offsets": {"0": 24}}}, 24, "data_offsets"),
        ({"x": ENTRY | {"data_offsets": [8, 32]}}, 32, "begins at byte 8, not at 0"),
        ({"x": ENTRY, "y": ENTRY}, 24, "begins at byte 0, not at 24"),
        ({"x": ENTRY, "y": ENTRY | {"data_offsets": [12, 36]}}, 36, "begins at byte 12, not"),
        ({"x": ENTRY, "y": ENTRY | {"data_offsets": [28, 52]}}, 52, "begins at byte 28, not"),
        ({"x": ENTRY}, 23, "truncated"),
        ({"x": ENTRY}, 25, "damaged: "),
        ({"x": ENTRY | {"more": 1}}, 24, "the entry"),
        ({"x": {"dtype": "F32", "shape": [2, 3]}}, 24, "the entry"),
        ({"x": [ENTRY]}, 24, "the entry"),
        ({"x": None}, 24, "the entry None"),
        ({"x": ENTRY | {"dtype": "BOOL", "data_offsets": [0, 6]}}, 6, "booleans that are neither"),
        ({"__metadata__": {"a": 1}}, 0, "must hold strings"),
        ({"__metadata__": ["a"]}, 0, "must hold strings"),
        ({"__metadata__": None}, 0, "must hold strings"),
        ({"__metadata__": {"fastbp": "{}"}}, 0, "does not have the digest"),
        ({"__metadata__": {"fastbp": "{}", "sha256": "0" * 64}}, 0, "does not have the digest"),
        (b'{"x": 1, "x": 2}', 0, "'x' stands in it twice"),
        (b'{"x": {"dtype": "F32", "dtype": "F32"}}', 0, "'dtype' stands in it twice"),
        (b'{"x": NaN}', 0, "'NaN' is no finite number"),
        (b'{"x": [-Infinity]}', 0, "'-Infinity' is no finite number"),
        (b'{"x": 1e999}', 0, "'1e999' is no finite number"),
        (b'{"x": ' + b"1" * 5000 + b"}", 0, "cannot be read"),
        (b'{"\\ud800": 1}', 0, "array '.ud800' has the entry 1"),
        (b'{"x": {"dtype": "\\udfff"}}', 0, "the entry"),
        ({"x": ENTRY | {"shape": [-(10**400)]}}, 24, "shape"),
        ({"x": ENTRY | {"shape": [2, 3, 0]}}, 24, "has 24 bytes, not the 0 of shape"),
        ({"x": ENTRY | {"shape": [], "data_offsets": [0, 0]}}, 0, "has 0 bytes, not the 4"),
        ({"x": ENTRY | {"data_offsets": [False, 24]}}, 24, "data_offsets"),
        ({"": ENTRY, "y" * 10**6: ENTRY}, 24, "begins at byte 0, not at 24"),
        (b"{} {}", 0, "cannot be read"),
        (b"{'x': 1}", 0, "cannot be read"),
        (b'{"x": "\xff"}', 0, "not UTF-8"),
        (b"[]", 0, "no JSON object"),
        (b" {}", 0, "no JSON object"),
        (b"\xef\xbb\xbf{}", 0, "no JSON object"),
        (b"", 0, "no JSON object"),
        (b'{"x": ' + b"[" * 100_000, 0, "nested too deeply"),
        (b'{"x": ' * 100_000, 0, "nested too deeply"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)  # fmt: skip
def test_forged_headers(header, n_bytes, message, tmp_path):
    (tmp_path / "file").write_bytes(joined(header, b"\7" * n_bytes))
    with pytest.raises(ValueError, match=message) as caught:
        container.read(tmp_path / "file")
    assert str(caught.value).startswith(str(tmp_path / "file"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [9, 2**25 + 1, 2**31, 2**63, 2**64 - 1])
def test_forged_lengths(length, tmp_path):
    (tmp_path / "file").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=f"10 bytes, .* a header of {length} follows"):
        container.read(tmp_path / "file")


def test_header_of_a_large_sparse_file(tmp_path):
    """Its header may not be longer than any that is written, however long the file is."""
    with open(tmp_path / "file", "wb") as file:
        file.write((2**26).to_bytes(8, "little"))
        file.truncate(2**27)
    with pytest.raises(ValueError, match="not a safetensors file, or truncated"):
        container.read(tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["[]", "1", "{", '{"a": 1, "a": 1}', '{"a": Infinity}', "[" * 9999]
)
def test_a_description_that_is_no_json_object(text, tmp_path):
    metadata = {"fastbp": text, "sha256": container._digest_of({}, text, [])}
    (tmp_path / "file").write_bytes(joined({"__metadata__": metadata}, b""))
    with pytest.raises(ValueError, match="damaged"):
        container.read(tmp_path / "file")


def test_what_may_change_in_the_header(path):
    """Space and order; names of others' metadata."""
    header, data = parts_of(path.read_bytes())
    header["__metadata__"]["comment"] = "by another program"
    header = dict(reversed(header.items()))
    path.write_bytes(joined(json.dumps(header, indent=3).encode() + b" \n\t", data))
    arrays, description = container.read(path)
    assert_equal(dict(reversed(arrays.items())), ARRAYS)
    assert description == DESCRIPTION


def test_memory_is_bounded_by_the_files_size(tmp_path):
    """Neither a header's numbers nor its length are believed before they were compared with it."""
    huge = {"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}
    path = tmp_path / "file"
    path.write_bytes(joined(huge, bytes(1000)))
    program = (
        "import resource, sys\nfrom fastbp import container\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "try: container.read(sys.argv[1])\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert "truncated" in done.stdout, done.stderr


def test_a_file_that_shrinks_while_it_is_read(path, monkeypatch):
    content = path.read_bytes()
    monkeypatch.setattr(
        container, "open_regular", lambda path: (io.BytesIO(content[:-10]), len(content))
    )
    with pytest.raises(ValueError, match="truncated while it was being read"):
        container.read(path)


# ---- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([1j]),
        np.array([1], np.longdouble),
        np.array([None]),
        np.array(0, "M8[s]"),
        np.zeros(1, "i4,f4"),
        np.zeros((1,) * 33),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_that_cannot_be_stored(array, path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cannot be stored|more than 32"):
        container.write(path, {"x": array}, {})
    with pytest.raises(ValueError, match="cannot be stored"):
        container.write(path, {"__metadata__": np.zeros(1)}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file"]


def test_descriptions_that_cannot_be_stored(path, monkeypatch):
    before = path.read_bytes()
    for description in ({"x": np.nan}, {"x": np.inf}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            container.write(path, {}, description)
    with pytest.raises(TypeError):
        container.write(path, {}, {"x": b"bytes"})
    monkeypatch.setattr(container, "MOST_HEADER_BYTES", 2**10)
    with pytest.raises(ValueError, match=r"the description takes .* more than the 1024"):
        container.write(path, {}, {"x": "x" * 2000})
    assert path.read_bytes() == before


@pytest.mark.parametrize("most", [0, 8, 100, 1500])
def test_a_disk_that_is_full_after_some_bytes(most, path, monkeypatch):
    before = path.read_bytes()
    real = files.replacing

    class Full:
        def __init__(self, file):
            self.file, self.left = file, most

        def write(self, part):
            self.left -= len(part)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            self.file.write(part)

    class Replacing:
        def __init__(self, path):
            self.inner = real(path)

        def __enter__(self):
            return Full(self.inner.__enter__())

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    monkeypatch.setattr(container, "replacing", Replacing)
    with pytest.raises(OSError, match="No space left"):
        container.write(path, ARRAYS, {"another": 1})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file"]
