"""Parts in one process: lists of pictures, what a folder remembers, files of results. No Ray."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import job_for, rows_of

from ssd_train.errors import ImageError, SSDDeployError

pa = pytest.importorskip("pyarrow", reason="needs the extra ray")
import pyarrow.parquet as pq  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

from ssd_deploy.parts.listing import cut, find_lists  # noqa: E402
from ssd_deploy.parts.plan import plan  # noqa: E402
from ssd_deploy.parts.worker import PartWorker  # noqa: E402


def test_lists_of_all_kinds_name_each_picture_once_and_in_order(tmp_path: Path, pictures: Path) -> None:
    names = sorted(path.name for path in pictures.iterdir())
    (pictures / "some.txt").write_text(f"{names[3]}\n\n{names[0]}\n")
    other = pictures / "list.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "path": names[5:8]}), other, row_group_size=2)
    try:
        words = [str(pictures / "some.txt"), str(other), str(pictures / names[0])]
        parts = list(cut(find_lists(words, tmp_path, 8), 8))
        # Parquet files are taken as they are, row group by row group; all else is one listing behind them.
        assert [(part.index, part.start, part.count) for part in parts] == [(0, 0, 2), (1, 2, 1), (2, 3, 2)]
        found = [path.name for part in parts for path in part.paths()]
        assert found == [*names[5:8], names[3], names[0]]
        assert all(path.is_file() for part in parts for path in part.paths())
    finally:
        (pictures / "some.txt").unlink()
        other.unlink()


@pytest.mark.parametrize("content", [b"no parquet", None])
def test_a_list_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "list.parquet"
    if content is None:
        pq.write_table(pa.table({"id": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"list\.parquet: (cannot be read as Parquet|has no column)"):
        list(cut(find_lists([str(path)], tmp_path, 8), 8))


def test_parts_in_any_order_are_what_one_process_finds(
    tmp_path: Path, model: Path, pictures: Path, in_one_piece: dict[str, Any]
) -> None:
    what = plan(tmp_path, [str(pictures)], 16, {"formats": ["parquet", "coco"]})
    worker = PartWorker(job_for(model, tmp_path, "parquet", "coco"))
    results = [worker.run(part) for part in reversed(what.parts)]
    worker.close()
    assert [result.pictures for result in results] == [8, 16, 16]
    rows = rows_of(tmp_path)
    assert [row["index"] for row in rows] == list(range(40))
    (broken,) = [row for row in rows if row["error"]]
    assert Path(broken["path"]).name == "broken.jpg" and broken["boxes"] is None
    for row in rows:
        if row is not broken:
            expected = in_one_piece[Path(row["path"]).name]
            assert (row["height"], row["width"]) == (expected["height"], expected["width"])
            assert row["boxes"] == [each["box"] for each in expected["detections"]]
            assert row["scores"] == [each["score"] for each in expected["detections"]]
            assert row["labels"] == [each["label"] for each in expected["detections"]]
    # What an earlier run finished is not done again, by whomever.
    assert not plan(tmp_path, [str(pictures)], 16, {"formats": ["parquet", "coco"]}).missing
    _check_coco(tmp_path, in_one_piece)


def _check_coco(folder: Path, in_one_piece: dict[str, Any]) -> None:
    """COCO's own reader opens every part, and ids are those of one file."""
    image_ids, annotation_ids = [], []
    for path in sorted(folder.glob("part-*.coco.json")):
        coco = COCO(str(path))
        image_ids += coco.getImgIds()
        annotation_ids += coco.getAnnIds()
        for image in coco.loadImgs(coco.getImgIds()):
            found = coco.loadAnns(coco.getAnnIds(image["id"]))
            expected = in_one_piece[Path(image["file_name"]).name]["detections"]
            assert [each["score"] for each in found] == [each["score"] for each in expected]
            assert [each["category_id"] for each in found] == [each["label"] + 1 for each in expected]
    assert len({*image_ids}) == len(image_ids) == 39
    assert len({*annotation_ids}) == len(annotation_ids)


def test_a_picture_may_be_called_anything(tmp_path: Path, model: Path, pictures: Path) -> None:
    """Bytes that are no UTF-8, ends of lines and escape sequences are escaped as everywhere, in lists too."""
    folder = tmp_path / "named"
    folder.mkdir()
    picture = min(pictures.glob("shapes*")).read_bytes()
    for name in (b"caf\xe9.jpg", b"line\nend.jpg", b"red\x1b[31m.jpg", "snow\u2603.jpg".encode()):
        (folder / os.fsdecode(name)).write_bytes(picture)
    (folder / os.fsdecode(b"broken\xe9.jpg")).write_bytes(b"no picture")
    (folder / "list.txt").write_text("caf\\udce9.jpg\n")
    worker = PartWorker(job_for(model, tmp_path, "parquet", "coco"))

    def detected(source: Path) -> dict[str, str | None]:
        """A picture's name in the results -> its error; of a picture without one something was found."""
        (part,) = cut(find_lists([str(source)], tmp_path, 8), 8)
        worker.run(part)
        rows = rows_of(tmp_path)
        assert all(bool(row["boxes"]) is (row["error"] is None) for row in rows)
        return {row["path"].removeprefix(f"{folder}/"): row["error"] for row in rows}

    names = ["broken\\udce9.jpg", "caf\\udce9.jpg", "line\\u000aend.jpg", "red\\u001b[31m.jpg", "snow\u2603.jpg"]
    found = detected(folder)
    assert sorted(found) == names
    error = found["broken\\udce9.jpg"]
    assert error is not None and error.startswith(f"{folder}/broken\\udce9.jpg: not an image")
    # What was written is a list again.
    shutil.copy(tmp_path / "part-000000.parquet", folder / "again.parquet")
    assert detected(folder / "again.parquet") == found
    assert detected(folder / "list.txt") == {"caf\\udce9.jpg": None}
    worker.close()


def test_a_folder_goes_on_with_its_own_run_alone(tmp_path: Path, pictures: Path) -> None:
    words = [str(pictures)]
    first = plan(tmp_path, words, 16, {"threshold": 0.5})
    (pictures / "later.jpg").write_bytes((pictures / "broken.jpg").read_bytes())
    try:
        # A picture that came since belongs to another run.
        assert plan(tmp_path, words, 16, {"threshold": 0.5}).parts == first.parts
    finally:
        (pictures / "later.jpg").unlink()
    with pytest.raises(SSDDeployError, match=r"plan\.json: .*threshold is 0\.5, and not 0\.3"):
        plan(tmp_path, words, 16, {"threshold": 0.3})
    with pytest.raises(SSDDeployError, match="part_size is 16, and not 8"):
        plan(tmp_path, words, 8, {"threshold": 0.5})
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SSDDeployError, match="is no plan of a run"):
        plan(tmp_path, words, 16, {"threshold": 0.5})


def test_a_part_whose_note_is_broken_is_done_again(tmp_path: Path, model: Path, pictures: Path) -> None:
    what = plan(tmp_path, [str(pictures)], 24, {})
    worker = PartWorker(job_for(model, tmp_path))
    worker.run(what.parts[1])
    worker.close()
    note = tmp_path / "part-000001.done.json"
    assert json.loads(note.read_text())["pictures"] == 16
    assert [part.index for part in plan(tmp_path, [str(pictures)], 24, {}).missing] == [0]
    note.write_text(note.read_text()[:20])
    assert [part.index for part in plan(tmp_path, [str(pictures)], 24, {}).missing] == [0, 1]
