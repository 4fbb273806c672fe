"""The errors that a user can cause and mend.

Each message is a complete sentence: which file or value, what was expected, what to do next. It speaks to Python
users; the command line, which alone prints it (exit code 2, no traceback), adds the options that it is about.
"""


class SSDDeployError(Exception):
    """Base of every error that is a user's to mend; anything else that is raised is a bug of ours.

    Args:
        message: the sentence.
        arguments: names of the arguments or settings that are at fault.
    """

    def __init__(self, message: str, *, arguments: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = arguments


class ResultError(SSDDeployError):
    """A result that cannot be written for what it is called or holds; others beside it can be."""


class SpecError(SSDDeployError):
    """A detector description that contradicts itself: thresholds, sizes, class names."""


class ImageError(SSDDeployError):
    """An image that cannot be read whole, or an array that is not an RGB uint8 image."""


class SourceError(SSDDeployError):
    """A video, camera or stream that cannot be opened, or a name that is no source of pictures."""


class DatasetError(SSDDeployError):
    """A data set folder, annotation file or class list that cannot be used."""


class OwnPartError(DatasetError):
    """Of several processes that train together, one alone can tell: it is about that one's part of the images."""


class NetworkError(SSDDeployError):
    """A network name or configuration that does not exist, or an input that does not fit it."""


class WeightsError(SSDDeployError):
    """A weight file that is missing, broken, foreign, or does not fit the network."""


class ModelError(SSDDeployError):
    """An exported model file that is missing, broken, or lacks what a runner needs."""


class BackendError(SSDDeployError):
    """A backend that is not installed, or is not doing what was asked of it."""


# Of another library's error: it may repeat what a file says, and that may be long.
_MOST_LETTERS = 400


def first_line(text: object) -> str:
    """Return the first line of another library's error or print that says something, for a sentence of ours.

    That is one that is not empty and no part of a banner between asterisks, and its beginning where it is long; an
    error without any is called by its type.
    """
    lines = (line.strip().rstrip(".") for line in str(text).splitlines())
    nothing = type(text).__name__ if isinstance(text, BaseException) else ""
    found = next((line for line in lines if line and not line.startswith("*")), nothing)
    return found if len(found) <= _MOST_LETTERS else f"{found[: _MOST_LETTERS - 3]}..."
