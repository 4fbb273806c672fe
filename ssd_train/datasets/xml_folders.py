"""XML of Pascal VOC's kind without VOC's folders: as LabelImg and Roboflow leave it."""

from pathlib import Path

from ssd_train.datasets.annotations import Annotations
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import FileIndex
from ssd_train.datasets.splits import ALL, SPLIT_NAMES, named_split
from ssd_train.datasets.voc import XML_SUFFIXES, classes_of_files, is_voc
from ssd_train.datasets.voc_xml import read_annotated_image
from ssd_train.errors import DatasetError


def is_labelimg(folder: Path) -> bool:
    """Whether XML lies in a folder with images, and nothing says how they are split."""
    return not is_voc(folder) and not split_folders(folder) and bool(_pairs(folder))


def is_roboflow_voc(folder: Path) -> bool:
    """Whether there is a folder a split, each with images and their XML."""
    return bool(split_folders(folder))


def split_folders(root: Path) -> tuple[str, ...]:
    """Return the folders that hold a split's images and XML, in the order of training, validation, test."""
    return tuple(name for name in SPLIT_NAMES if any(map(_is_annotation, (root / name).glob("*"))))


def _is_annotation(path: Path) -> bool:
    return path.suffix.lower() in XML_SUFFIXES and not path.name.startswith(".")


def find_split(root: Path, part: str) -> str:
    return named_split(root, split_folders(root), part)


def read_xml_folder(root: Path, split: str, findings: Findings) -> Annotations:
    """Read all images that have an annotation, in the folder of a split or, for `all`, in the whole folder.

    Raises:
        DatasetError: there is no such folder, or an annotation is unusable.
        ImageError: an annotation without a size belongs to an image that cannot be read.
    """
    folder = root if split == ALL else root / split
    if not folder.is_dir():
        present = ", ".join(split_folders(root)) or ALL
        raise DatasetError(f"{folder}: no such folder; choose another split ({present})", arguments=("split",))
    images = FileIndex(folder)
    annotations = FileIndex(folder, XML_SUFFIXES)
    found = []
    for image_id, xml_path in annotations.paths.items():
        image_path = _image_beside(image_id, images)
        if image_path is not None:
            found.append(read_annotated_image(images.id_of(image_path), image_path, xml_path, findings))
        else:
            findings.add("image-missing", xml_path.name)
    unannotated = len(images.paths) - len(found)
    if unannotated > 0 and found:
        findings.add("image-without-annotation", str(folder), unannotated)
    return Annotations(images=tuple(image for image in found if image is not None))


def find_class_names(root: Path) -> tuple[str, ...]:
    """Return the classes of all objects, by alphabet; raise DatasetError where there are none."""
    return classes_of_files(root, list(_pairs(root)))


def _pairs(folder: Path) -> list[Path]:
    """Return the XML files that have an image."""
    images = FileIndex(folder)
    annotations = FileIndex(folder, XML_SUFFIXES)
    return [path for image_id, path in annotations.paths.items() if _image_beside(image_id, images) is not None]


def _image_beside(image_id: str, images: FileIndex) -> Path | None:
    """Return the image of an annotation: beside it, or the same path in a folder `images` beside `annotations`."""
    path = images.find(image_id)
    if path is not None or "/" not in image_id:
        return path
    first, rest = image_id.split("/", 1)
    return next((found for name in ("images", "JPEGImages") if (found := images.find(f"{name}/{rest}"))), None)
