"""The `.params` reader against MXNet's own bytes and against everything that can be wrong with a file."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.errors import WeightsError
from ssd_train.weights.params_file import parse_params, read_bytes

PATH = Path("some.params")


def test_the_dump_that_mxnet_wrote_is_read(golden, tmp_path):
    path = tmp_path / "ab.params"
    path.write_bytes(golden)
    assert len(golden) == 106
    arrays = parse_params(read_bytes(path), path)
    assert list(arrays) == ["ab"]
    assert arrays["ab"].dtype == np.float32
    np.testing.assert_array_equal(arrays["ab"], [[0, 1, 2], [3, 4, 5]])


def test_no_arrays_make_an_empty_dict(pack_file):
    assert parse_params(pack_file([], []), PATH) == {}


def test_arrays_are_writable_and_share_no_memory(golden, pack_file, pack_record):
    array = parse_params(golden, PATH)["ab"]
    array[:] = 7
    np.testing.assert_array_equal(parse_params(golden, PATH)["ab"], [[0, 1, 2], [3, 4, 5]])
    flags = pack_file([pack_record((2,), 7, b"\0\1"), pack_record((1,), 12, b"\x80\x3f")], ["a", "b"])
    assert all(array.flags.writeable for array in parse_params(flags, PATH).values())


def test_bytes_after_the_names_are_ignored(golden):
    assert list(parse_params(golden + b"anything", PATH)) == ["ab"]


def test_names_keep_their_order_and_their_letters(float_params):
    names = ["z.weight", "größe", "a", ""]
    assert list(parse_params(float_params({name: [1] for name in names}), PATH)) == names


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_record_version_is_read_even_beside_others(pack_file, pack_record, version):
    data = struct.pack("<6f", *range(6))
    file = pack_file([pack_record((2, 3), 0, data, version), pack_record((1,), 0, data[4:8])], ["a", "b"])
    arrays = parse_params(file, PATH)
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["b"], [1])


@pytest.mark.parametrize(
    ("flag", "dtype", "data", "expected"),
    [
        (0, "float32", struct.pack("<2f", -1.5, 3), [-1.5, 3]),
        (1, "float64", struct.pack("<2d", -1.5, 3), [-1.5, 3]),
        (2, "float16", struct.pack("<2e", -1.5, 3), [-1.5, 3]),
        (3, "uint8", b"\x00\xff", [0, 255]),
        (4, "int32", struct.pack("<2i", -2, 3), [-2, 3]),
        (5, "int8", b"\xff\x02", [-1, 2]),
        (6, "int64", struct.pack("<2q", -2, 1 << 40), [-2, 1 << 40]),
        (7, "bool", b"\x00\x01", [False, True]),
        (8, "int16", struct.pack("<2h", -2, 3), [-2, 3]),
        (9, "uint16", struct.pack("<2H", 2, 65535), [2, 65535]),
        (10, "uint32", struct.pack("<2I", 2, 1 << 31), [2, 1 << 31]),
        (11, "uint64", struct.pack("<2Q", 2, 1 << 63), [2, 1 << 63]),
        # 1.0 is 0x3f80, -2.5 is 0xc020: the upper halves of their float32 forms.
        (12, "float32", b"\x80\x3f\x20\xc0", [1.0, -2.5]),
    ],
)
def test_every_dtype_flag_is_read(pack_file, pack_record, flag, dtype, data, expected):
    array = parse_params(pack_file([pack_record((2,), flag, data)], ["a"]), PATH)["a"]
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == expected


def test_a_scalar_is_an_array_in_version_three_only(pack_file, pack_record):
    scalar = parse_params(pack_file([pack_record((), 0, struct.pack("<f", 2.5), 3)], ["a"]), PATH)["a"]
    assert scalar.shape == ()
    assert scalar == 2.5
    for version in (0, 1, 2):
        with pytest.raises(WeightsError, match="array record 1 of 1 holds no array"):
            parse_params(pack_file([pack_record((), 0, bytes(20), version)], ["a"]), PATH)


def test_an_array_of_no_elements_is_read(pack_file, pack_record):
    assert parse_params(pack_file([pack_record((0, 1 << 40), 0, b"")], ["a"]), PATH)["a"].shape == (0, 1 << 40)


REFUSED = {
    "a sparse record": (lambda record: record((1,), 0, bytes(40), storage=1), "row-sparse"),
    "a CSR record": (lambda record: record((1,), 0, bytes(40), storage=2), "CSR sparse"),
    "an undefined storage": (lambda record: record((1,), 0, bytes(40), storage=-1), "unknown way -1"),
    "no array in version 3": (
        lambda record: struct.pack("<Iii", 0xF993FACA, 0, -1) + bytes(20),
        "holds no array",
    ),
    "fewer than no dimensions": (lambda record: struct.pack("<Iii", 0xF993FAC9, 0, -2) + bytes(20), "-2 dimensions"),
    "33 dimensions": (lambda record: record((1,) * 33, 0, bytes(4)), "33 dimensions"),
    "9 dimensions in version 0": (lambda record: record((1,) * 9, 0, bytes(4), version=0), "9 dimensions"),
    "a foreign record magic": (lambda record: b"\x11\x22\x33\x44" + bytes(40), "0x44332211"),
    "a negative dimension": (lambda record: record((2, -3), 0, bytes(24)), r"\(2, -3\)"),
    "two negative dimensions": (lambda record: record((-2, -3), 0, bytes(24)), r"\(-2, -3\)"),
    "a size beyond 64 bits": (lambda record: record((1 << 33, 1 << 33), 0, bytes(24)), "impossible shape"),
    "a zero times a size beyond 64 bits": (
        lambda record: record((0, 1 << 62, 4), 0, bytes(24)),
        "impossible shape",
    ),
    "an unknown dtype": (lambda record: record((1,), 13, bytes(24)), "dtype flag 13"),
    "a negative dtype": (lambda record: record((1,), -1, bytes(24)), "dtype flag -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_record_that_no_weight_file_should_have_is_refused(pack_file, pack_record, case):
    make, message = REFUSED[case]
    with pytest.raises(WeightsError, match=f"some.params: array record 1 of 1 .*{message}"):
        parse_params(pack_file([make(pack_record)], ["a"]), PATH)


def test_arrays_without_names_are_refused(pack_file, pack_record):
    with pytest.raises(WeightsError, match="1 arrays and 0 names"):
        parse_params(pack_file([pack_record((1,), 0, bytes(4))], []), PATH)


def test_a_name_twice_is_refused(pack_file, pack_record):
    with pytest.raises(WeightsError, match="two arrays of the name 'a'"):
        parse_params(pack_file([pack_record((1,), 0, bytes(4))] * 2, ["a", "a"]), PATH)


def test_a_name_that_is_not_text_is_refused(golden):
    with pytest.raises(WeightsError, match="name 1 of 1 is not UTF-8"):
        parse_params(golden[:-2] + b"\xff\xfe", PATH)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        (9, "the file header"),
        (20, "the array count"),
        (24, "1 arrays, as the array count says,"),
        (50, "array record 1 of 1"),
        (79, r"array record 1 of 1, float32 of shape \(2, 3\),"),
        (90, "the name count"),
        (105, "name 1 of 1"),
    ],
)
def test_a_cut_off_file_is_refused_and_the_place_named(golden, size, where):
    with pytest.raises(WeightsError, match=f"^some.params: {where} would take .* cut off"):
        parse_params(golden[:size], PATH)


def test_an_npz_container_is_told_from_a_params_file():
    with pytest.raises(WeightsError, match="zip archive .*MXNet 1.x"):
        parse_params(b"PK\x03\x04" + bytes(100), PATH)


def test_a_foreign_file_is_refused_with_what_was_expected():
    with pytest.raises(WeightsError, match="begins with ff d8 .* instead of 12 01 00"):
        parse_params(b"\xff\xd8\xff\xe0 JFIF", PATH)


def test_a_missing_file_an_empty_one_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match="no such weight file"):
        read_bytes(tmp_path / "missing.params")
    with pytest.raises(WeightsError, match="is a folder"):
        read_bytes(tmp_path)
    (tmp_path / "empty.params").touch()
    with pytest.raises(WeightsError, match="empty.params: is an empty file"):
        read_bytes(tmp_path / "empty.params")


@pytest.mark.parametrize(
    "claim",
    ["an exabyte array", "an exabyte name", "many arrays"],
)
def test_a_size_that_the_file_only_claims_is_not_allocated(golden, pack_file, pack_record, claim):
    file = {
        "an exabyte array": pack_file([pack_record((1 << 57,), 0, b"")], ["a"]),
        "an exabyte name": golden[:-10] + struct.pack("<Q", 1 << 60) + b"ab",
        "many arrays": golden[:16] + struct.pack("<Q", 1 << 40) + golden[24:],
    }[claim]
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="cut off or damaged"):
            parse_params(file, PATH)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def every_form(pack_file, pack_record):
    """A file with every record version and some dtypes, names of several lengths."""
    records = [
        pack_record((2, 3), 0, bytes(24), 0),
        pack_record((3,), 3, b"abc", 1),
        pack_record((1, 2, 1), 12, bytes(4), 2),
        pack_record((), 1, bytes(8), 3),
        pack_record((5,), 7, b"\0\1\0\1\2", 2),
    ]
    return pack_file(records, ["a", "b.weight", "", "größe", "e"])


def check_is_read_or_refused(data: bytes) -> None:
    try:
        arrays = parse_params(data, PATH)
    except WeightsError as error:
        assert str(error).startswith("some.params: ")
    else:
        assert sum(array.nbytes for array in arrays.values()) <= 2 * len(data)


def test_every_truncation_is_refused(every_form):
    assert len(parse_params(every_form, PATH)) == 5
    for size in range(len(every_form)):
        with pytest.raises(WeightsError, match="some.params"):
            parse_params(every_form[:size], PATH)


def test_every_single_bit_flip_is_read_or_refused(every_form):
    for bit in range(8 * len(every_form)):
        flipped = bytearray(every_form)
        flipped[bit // 8] ^= 1 << bit % 8
        check_is_read_or_refused(bytes(flipped))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_read_or_refused(every_form, data):
    damaged = bytearray(every_form)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged)))
        damaged[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    check_is_read_or_refused(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=200), count=st.integers(0, 3))
def test_any_bytes_after_the_header_are_read_or_refused(tail, count):
    check_is_read_or_refused(struct.pack("<QQQ", 0x112, 0, count) + tail)
