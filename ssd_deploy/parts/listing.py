"""What is to be detected in, cut into parts that can be told in a few bytes, however many pictures there are.

    pictures, folders, patterns, .txt lists  ->  listing.parquet  ->  parts
    .parquet files with a column `path`      ------------------->  parts

A part is a range of rows of one row group, so that whoever works on it reads the names of its pictures alone.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssd_train.errors import ImageError, first_line
from ssd_train.escaped_text import escaped, unescaped
from ssd_train.files import written_atomically
from ssd_train.image_files import find_images
from ssd_train.input_files import read_text
from ssd_train.paths import user_path

# What a column of pictures' names may be called, the likeliest first.
PATH_COLUMNS = ("path", "file_name", "file", "image_path", "filename")

LISTING_NAME = "listing.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """So many pictures in a row.

    Attributes:
        index: which part, from 0.
        start: its first picture among all, from 0.
        count: how many there are.
        file, group, offset: where their names are: a Parquet file, its row group, the first row in that.
    """

    index: int
    start: int
    count: int
    file: Path
    group: int
    offset: int

    def name(self) -> str:
        """Say which pictures they are: by their place among all, and in their list."""
        last = self.offset + self.count - 1
        return f"part {self.index} ({self.file}, row group {self.group}, rows {self.offset} to {last})"

    def paths(self) -> list[Path]:
        """Read the names; one that is relative lies beside the Parquet file.

        Raises:
            ImageError: the file cannot be read, or has changed.
        """
        with _opened(self.file) as parquet:
            rows = parquet.read_row_group(self.group, columns=[_path_column(parquet, self.file)])
        names = rows.column(0).slice(self.offset, self.count).to_pylist()
        if len(names) != self.count or not all(isinstance(name, str) and name for name in names):
            raise ImageError(f"{self.file}: names of pictures are missing in it, or empty; make the list again")
        return [self.file.parent / unescaped(name) for name in names]


def find_lists(words: Sequence[str], folder: Path, part_size: int) -> list[Path]:
    """Return Parquet files with the names of all pictures; of what is named otherwise such a file is written.

    Args:
        words: pictures, folders, patterns, `.txt` files with a name a line, `.parquet` files. Names in a list are
            relative to it, and may be escaped as `escaped_text` says.
        folder: of the file that is written.
        part_size: rows of its groups.

    Raises:
        ImageError: a word stands for nothing, or a list cannot be read.
        SSDDeployError: the folder cannot be written.
    """
    lists = [user_path(word, ImageError).absolute() for word in words if _is_parquet(word)]
    others = [word for word in words if not _is_parquet(word)]
    if others:
        path = folder.absolute() / LISTING_NAME
        _write_listing((name for word in others for name in _names_of(word, folder)), path, part_size)
        lists.append(path)
    return lists


def cut(lists: Iterable[Path], part_size: int) -> Iterator[Part]:
    """Yield parts of at most so many pictures.

    Raises:
        ImageError: a list cannot be read.
    """
    index = start = 0
    for file in lists:
        with _opened(file) as parquet:
            _path_column(parquet, file)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        for group, size in enumerate(sizes):
            for offset in range(0, size, part_size):
                count = min(part_size, size - offset)
                yield Part(index=index, start=start, count=count, file=file, group=group, offset=offset)
                index, start = index + 1, start + count


def _is_parquet(word: str) -> bool:
    return word.lower().endswith(".parquet")


def _names_of(word: str, leave_out: Path) -> Iterable[Path]:
    if not word.lower().endswith(".txt"):
        return find_images([word], leave_out=leave_out)
    path = user_path(word, ImageError)
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as a list of pictures ({error}); write a name a line") from error
    return [path.parent / unescaped(line.strip()) for line in lines if line.strip()]


def _write_listing(paths: Iterable[Path], path: Path, part_size: int) -> None:
    names = iter(dict.fromkeys(escaped(str(each.absolute())) for each in paths))  # each once, as everywhere
    schema = pa.schema([(PATH_COLUMNS[0], pa.string())])
    with written_atomically(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while rows := list(itertools.islice(names, part_size)):
            writer.write_table(pa.table([rows], schema=schema), row_group_size=part_size)


def _path_column(parquet: pq.ParquetFile, file: Path) -> str:
    names = parquet.schema_arrow.names
    known = next((name for name in PATH_COLUMNS if name in names), None)
    if known is None:
        raise ImageError(f"{file}: has no column of pictures' names; call it {PATH_COLUMNS[0]!r}")
    return known


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise ImageError(f"{file}: cannot be read as Parquet ({first_line(error)}); make it again") from error
