"""The one file of a published zip archive, unpacked to a size that is known beforehand."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

# One entry takes about a hundred bytes; of millions, zipfile would make an object each.
MAX_DIRECTORY_BYTES = 1 << 16

# bzip2 and LZMA unpack whatever so many bytes hold at once.
CHUNK_BYTES = 1 << 12


class ArchiveError(Exception):
    """An archive that does not hold the file; the message says what it does instead, without a subject."""


def unpacked(archive: Path, name: str, max_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of a file in a zip archive.

    Raises:
        ArchiveError: the archive is damaged, does not have the file, or has a longer one.
        OSError: the archive cannot be read.
    """
    with _File(archive) as file:
        try:
            with zipfile.ZipFile(file) as opened:
                member = opened.getinfo(name)
                if member.file_size > max_bytes:
                    raise ArchiveError(
                        f"says that {name} has {member.file_size} bytes, more than the {max_bytes} that it can have"
                    )
                # No more than `file_size` is read, whatever is packed.
                with opened.open(member) as packed:
                    while chunk := packed.read(CHUNK_BYTES):
                        yield chunk
        except (ArchiveError, GeneratorExit):
            raise
        except KeyError as error:
            raise ArchiveError(f"does not hold {name}") from error
        # zipfile and its decompressors answer damaged bytes with errors of many kinds; those of the disk have a number.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ArchiveError(f"is no whole zip archive ({str(error) or type(error).__name__})") from error


class _File(io.FileIO):
    """An archive whose table of contents is short."""

    def read(self, size: int | None = -1, /) -> bytes:
        # zipfile reads the table with one call, which is the only long one.
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its table of contents is too long")
        return super().read(-1 if size is None else size)
