"""Test images in Parquet files: columns, names, row groups, and files that are damaged or hostile."""

import errno
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from preimage.errors import FileFormatError
from preimage.io import ImageSource, find_images, list_images, parquet, remote
from preimage.io.parquet_footer import read_row_groups
from preimage.pipelines.extract import extract
from preimage.representations import create_representation

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

DATA = [b"first image", b"second", b"third image", b"4", b"fifth"]
NAMES = ["a/one.jpg", "two", "b/three.PNG", "four.v2", "five"]


def write(path, columns, **options):
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def images(path):
    return [(source.key, source.read()) for source in list_images(path)]


@pytest.mark.parametrize("group", [2, 5])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_are_images_in_order(tmp_path, group, compression, dictionary):
    columns = {"label": list(range(5)), "image": DATA, "key": NAMES}
    path = write(
        tmp_path / "s.parquet", columns, row_group_size=group, compression=compression, use_dictionary=dictionary
    )
    keys = ["a/one", "two", "b/three", "four.v2", "five"]
    assert images(path) == list(zip(keys, DATA, strict=True))
    source = list_images(path)[2]
    assert source == ImageSource("b/three", str(path), "b/three.PNG", 0, source.length, 2)
    assert source.name == f"{path}:b/three.PNG"
    assert [one.read() for one in reversed(list_images(path))] == DATA[::-1]


@pytest.mark.parametrize("name", ["image", "bytes", "jpg", "png", "content"])
@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_columns_of_images(tmp_path, name, kind):
    path = write(tmp_path / "s.parquet", {name: pa.array(DATA, getattr(pa, kind)())})
    assert images(path) == [(str(row), data) for row, data in enumerate(DATA)]


@pytest.mark.parametrize("name", ["key", "__key__", "path", "file_name", "id"])
@pytest.mark.parametrize("kind", ["string", "large_string", "binary"])
def test_columns_of_names(tmp_path, name, kind):
    path = write(tmp_path / "s.parquet", {name: pa.array(["x.jpg", "y"] * 2, getattr(pa, kind)()), "jpg": DATA[:4]})
    # Rows of equal names are different images.
    assert images(path) == [("x#1", DATA[0]), ("y#1", DATA[1]), ("x#2", DATA[2]), ("y#2", DATA[3])]


def test_integers_are_names_and_missing_names_numbers(tmp_path):
    path = write(tmp_path / "s.parquet", {"id": [70, None, -5], "jpg": DATA[:3]})
    assert images(path) == [("70", DATA[0]), ("1", DATA[1]), ("-5", DATA[2])]


@pytest.mark.parametrize("dictionary", [True, False])
def test_structs_of_hugging_face(tmp_path, dictionary):
    rows = [{"bytes": DATA[0], "path": "n01/x.JPEG"}, {"bytes": DATA[1], "path": None}, None]
    path = write(tmp_path / "s.parquet", {"label": [1, 2, 3], "image": rows}, use_dictionary=dictionary)
    listed = list_images(path)
    assert [source.key for source in listed] == ["n01/x", "1", "2"]
    assert [source.read() for source in listed[:2]] == DATA[:2]
    with pytest.raises(FileFormatError, match="row 2"):
        listed[2].read()


def test_a_folder_of_parquet_files(tmp_path):
    for number in range(2):
        write(tmp_path / f"train-{number}.parquet", {"image": DATA[:2], "key": ["x", f"only{number}"]})
    (tmp_path / "z.jpg").write_bytes(b"z")
    write(tmp_path / "labels.parquet", {"file_name": ["z.jpg"], "label": [3]})
    listing = find_images(tmp_path)
    assert [source.key for source in listing.sources] == ["train-0/x", "only0", "train-1/x", "only1", "z"]
    (note,) = listing.notes
    assert "labels.parquet" in note
    with pytest.raises(FileFormatError, match=r"labels\.parquet: .*file_name, label") as caught:
        list_images(tmp_path / "labels.parquet")
    assert caught.value.path == str(tmp_path / "labels.parquet")


def test_a_url_reads_one_row_group(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    data = [bytes([number]) * 200_000 for number in range(12)]
    file = io.BytesIO()
    write(file, {"image": data}, row_group_size=3, compression="none", use_dictionary=False)
    fs.pipe("/parquet/s.parquet", file.getvalue())
    fetched = []
    read = remote._Reader.read

    def counted(reader, size=-1):
        found = read(reader, size)
        fetched.append(len(found))
        return found

    monkeypatch.setattr(remote._Reader, "read", counted)
    sources = list_images("memory://parquet/s.parquet")
    assert len(sources) == 12 and sum(fetched) < 100_000
    fetched.clear()
    assert sources[4].read() == data[4]
    assert 600_000 < sum(fetched) < 700_000
    fetched.clear()
    assert [sources[row].read() for row in (3, 5)] == [data[3], data[5]] and not fetched
    file = io.BytesIO()
    write(file, {"image": DATA, "key": NAMES})
    fs.pipe("/parquet/s.parquet", file.getvalue())  # a file at a URL that is replaced is read anew when it is listed
    assert [data for _, data in images("memory://parquet/s.parquet")] == DATA
    fs.rm("/parquet", recursive=True)


def test_threads_share_the_row_groups(tmp_path, monkeypatch):
    path = write(tmp_path / "s.parquet", {"image": [b"%d" % row for row in range(400)]}, row_group_size=100)
    sources, reads, lock = list_images(path), [], threading.Lock()
    read = parquet._read_column

    def counted(*arguments):
        with lock:
            reads.append(arguments[2])
        return read(*arguments)

    monkeypatch.setattr(parquet, "_read_column", counted)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ImageSource.read, sources)) == [b"%d" % row for row in range(400)]
    assert set(reads) == {0, 1, 2, 3} and len(reads) < 40
    assert len(parquet._groups._futures) <= 2


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    path = write(tmp_path / "s.parquet", {"image": DATA[:2]})
    first, second = list_images(path)
    assert first.read() == DATA[0]
    write(tmp_path / "new.parquet", {"image": DATA[2:3]})
    os.replace(tmp_path / "new.parquet", path)
    assert first.read() == DATA[2]
    with pytest.raises(FileFormatError, match=r"s\.parquet.* 1"):
        second.read()


def test_the_store_of_a_parquet_file_has_the_features_of_the_files(photo_folder, tmp_path):
    paths = sorted(photo_folder.iterdir())[:4]
    columns = {"key": [path.name for path in paths], "image": [path.read_bytes() for path in paths]}
    write(tmp_path / "s.parquet", columns, row_group_size=2)
    hog = create_representation("hog")
    extract(hog, tmp_path / "s.parquet", tmp_path / "rows", size=64)
    extract(hog, [str(path) for path in paths], tmp_path / "files", size=64)
    shards = [sorted(folder.glob("shard-*")) for folder in (tmp_path / "rows", tmp_path / "files")]
    assert [file.read_bytes() for file in shards[0]] == [file.read_bytes() for file in shards[1]]


# Damaged and hostile files


def test_every_truncation_is_an_error(tmp_path):
    data = write(tmp_path / "whole.parquet", {"image": DATA, "key": NAMES}, row_group_size=2).read_bytes()
    path = tmp_path / "s.parquet"
    for length in (*range(0, len(data), 37), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(FileFormatError, match=r"s\.parquet: "):
            list_images(path)
    listing = find_images([path, write(tmp_path / "good.parquet", {"image": DATA})], skip_bad=True)
    assert len(listing.sources) == 5
    assert [name for name, _ in listing.skipped] == [str(path)]


def test_changed_bytes_are_errors_or_images(tmp_path):
    data = bytearray(write(tmp_path / "whole.parquet", {"image": DATA, "key": NAMES}, row_group_size=2).read_bytes())
    path, footer = tmp_path / "s.parquet", len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for position in (*range(0, footer, 23), *range(footer, len(data), 5)):
        changed = data.copy()
        changed[position] ^= 0x55
        path.write_bytes(changed)
        try:
            images(path)
        except (FileFormatError, ValueError) as error:
            assert "s.parquet" in str(error)


@pytest.mark.parametrize("version", ["1.0", "2.6"])
@pytest.mark.parametrize("columns", [1, 20])
def test_the_footer_is_read_as_pyarrow_reads_it(tmp_path, version, columns):
    table = {f"c{number}": [[row, None] for row in range(50)] for number in range(columns)} | {"b": [b"x", None] * 25}
    path = write(tmp_path / "s.parquet", table, row_group_size=3, version=version, write_page_index=True)
    metadata = pq.read_metadata(path)
    expected = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    with open(path, "rb") as file:
        assert read_row_groups(file) == [
            (group.num_rows, [group.column(number).total_uncompressed_size for number in range(columns + 1)])
            for group in expected
        ]


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x00",
        b"\x49",
        b"\x49\xff\xff\xff\xff\x7f",
        b"\x49\x1b",
        b"\x18\xff\xff\xff\xff\x0f",
        b"\x16" + b"\xff" * 20,
        b"\x1c" * 5000,
        b"\x1b\xff\xff\xff\x7f\x11",
    ],
)
def test_damaged_footers(footer):
    with pytest.raises((ValueError, IndexError, RecursionError)):
        read_row_groups(io.BytesIO(footer + len(footer).to_bytes(4, "little") + b"PAR1"))
    with pytest.raises(ValueError, match="footer"):
        read_row_groups(io.BytesIO(footer))


@pytest.mark.parametrize(
    "columns",
    [
        {"image": ["a path.jpg"]},
        {"image": [[b"a", b"b"]]},
        {"image": [1]},
        {"image": [{"path": "x.jpg"}]},
        {"image": [{"bytes": "text"}]},
        {"pixels": [b"x"]},
        {"image": pa.array([b"abcd"], pa.binary(4))},
    ],
)
def test_columns_of_other_types(tmp_path, columns):
    path = write(tmp_path / "s.parquet", columns)
    with pytest.raises(FileFormatError, match=r"s\.parquet: .*column.*, got (image|pixels)"):
        list_images(path)


@pytest.mark.parametrize("key", ["/etc/passwd/..", "../a", "a\n", "x" * 5000])
def test_names_that_cannot_be_keys(tmp_path, key):
    path = write(tmp_path / "s.parquet", {"image": DATA[:2], "key": [key, "good"]})
    with pytest.raises(FileFormatError, match=r"s\.parquet: ") as caught:
        list_images(path)
    assert len(str(caught.value)) < 1000
    assert [source.key for source in find_images(path, skip_bad=True).sources] == ["good"]


def test_row_groups_that_are_too_large(tmp_path, monkeypatch):
    path = write(tmp_path / "s.parquet", {"image": [bytes(100_000)] * 2, "key": NAMES[:2]}, use_dictionary=False)
    source = list_images(path)[0]
    monkeypatch.setattr(parquet, "_MAX_GROUP_BYTES", 199_999)
    with pytest.raises(FileFormatError, match=r"s\.parquet: row group 0 .*199999"):
        list_images(path)
    parquet._groups.clear()
    with pytest.raises(FileFormatError, match=r"199999"):
        source.read()
    monkeypatch.undo()
    monkeypatch.setattr(parquet, "_MAX_NAMES_BYTES", 10)
    with pytest.raises(FileFormatError, match=r"column key"):
        list_images(path)


def test_a_bomb_of_repeated_values_stays_small(tmp_path):
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array([bytes(1 << 20)]))
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    table = pa.table({"image": repeated, "key": names}).replace_schema_metadata(None)
    path = write(tmp_path / "s.parquet", table, dictionary_pagesize_limit=1 << 22, store_schema=False)
    assert path.stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    with pytest.raises(FileFormatError):
        list_images(path)  # the names are too long; as plain text they were 2 GB
    write(path, table.drop_columns(["key"]), dictionary_pagesize_limit=1 << 22, store_schema=False)
    sources = list_images(path)
    assert sources[-1].read() == bytes(1 << 20)
    assert pa.total_allocated_bytes() - before < 8 << 20
    parquet._groups.clear()


def test_a_small_file_cannot_claim_many_rows(tmp_path):
    path = write(tmp_path / "s.parquet", {"image": pa.nulls(1_000_000, pa.binary())})
    assert path.stat().st_size < 10_000
    with pytest.raises(FileFormatError, match=r"1000000 rows"):
        list_images(path)


def test_rows_are_not_left_out_where_names_are_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "s.parquet", {"image": DATA, "key": NAMES})
    read = parquet._read_column
    monkeypatch.setattr(parquet, "_read_column", lambda *arguments: [read(*arguments)[0][:3]])
    with pytest.raises(FileFormatError, match=r"s\.parquet: .*3 names of 5 rows"):
        list_images(path)


def test_errors_of_the_disk_are_no_damage(tmp_path, monkeypatch):
    path = write(tmp_path / "s.parquet", {"image": DATA})
    with pytest.raises(FileNotFoundError):
        parquet.read_row(str(tmp_path / "none.parquet"), 0)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "broken disk")

    class Opened:
        def __enter__(self):
            return Broken(path.read_bytes()), path.stat().st_size

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(parquet, "open_file", lambda path: Opened())
    with pytest.raises(OSError, match="broken disk") as caught:
        list_images(path)
    assert caught.value.errno == errno.EIO


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"<!doctype html><html>" + b"x" * 100)
    with pytest.raises(FileFormatError, match=r"s\.parquet"):
        list_images(tmp_path)
