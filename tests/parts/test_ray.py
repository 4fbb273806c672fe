"""Parts on a local Ray cluster of two workers: equal to one process, whoever is killed."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from in_process import job_for, rows_of, run

ray = pytest.importorskip("ray", reason="needs the extra ray")

from ssd_deploy.parts import ray_data  # noqa: E402
from ssd_deploy.parts.options import Parts  # noqa: E402
from ssd_deploy.parts.plan import plan  # noqa: E402
from ssd_deploy.parts.ray_data import run_in_actors, shared_out  # noqa: E402
from ssd_deploy.parts.worker import Job, PartWorker  # noqa: E402
from ssd_train.errors import BackendError, ImageError  # noqa: E402


def check_rows(folder: Path, in_one_piece: dict[str, Any]) -> None:
    rows = rows_of(folder)
    assert [row["index"] for row in rows] == list(range(40))
    for row in rows:
        if Path(row["path"]).name == "broken.jpg":
            assert "not an image" in row["error"]
            continue
        expected = in_one_piece[Path(row["path"]).name]["detections"]
        assert row["boxes"] == [each["box"] for each in expected]
        assert row["scores"] == [each["score"] for each in expected]


class Mortal(PartWorker):
    """Kills its process once, in the middle of a part, as a machine that goes away does."""

    def __init__(self, job: Job, killed: Path) -> None:
        super().__init__(job)
        self.killed = killed

    def _rows(self, part: Any) -> Any:
        if part.index == 2 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._rows(part)


class Clumsy:
    """Knows one item as a mistake of the user's, and dies of another whenever it is tried."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def run(self, item: str) -> str:
        if item == "mistake":
            raise ImageError("this list is broken", arguments=("images",))
        if item == "deadly":
            with self.begun.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return item


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(
    tmp_path: Path,
    model: Path,
    pictures: Path,
    in_one_piece: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    what = plan(tmp_path / "out", [str(pictures)], 8, {})
    make = functools.partial(Mortal, job_for(model, tmp_path / "out"), tmp_path / "killed")
    with shared_out(Parts(ray="local", actors=2), threads=1, device=None) as share:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        assert share.actors == 2
        results = list(run_in_actors(what.parts, make, share))
        # A cluster takes long to start, so what ends a run is tried on the same.
        clumsy = functools.partial(Clumsy, tmp_path / "begun")
        with pytest.raises(ImageError, match="this list is broken") as caught:
            list(run_in_actors(["fine", "mistake"], clumsy, share))
        assert caught.value.arguments == ("images",)
        with pytest.raises(BackendError, match="^<deadly>: 4 workers died over it; "):
            list(run_in_actors(["fine", "deadly"], clumsy, share, "<{}>".format))
    assert (tmp_path / "begun").read_text() == "x" * 4
    assert (tmp_path / "killed").exists()
    # Standard output is for results, and nobody reads pages of Ray's.
    printed = capfd.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    assert sorted(result.index for result in results) == [0, 1, 2, 3, 4]
    check_rows(tmp_path / "out", in_one_piece)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, model: Path, pictures: Path, in_one_piece: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    command = ["detect", str(model), str(pictures), "--out", str(out), "--part-size", "8", "--ray", "local"]
    whole = [sys.executable, "-m", "ssd_deploy", *command, "--json", str(tmp_path / "result.json")]
    with subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (done := list(out.glob("*.done.json"))):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    before = {
        path.name: path.stat().st_mtime_ns
        for path in out.glob("part-*")
        if f"{path.name[:11]}.done.json" in {each.name for each in done}
    }
    answer = subprocess.run(whole, capture_output=True, text=True)
    assert answer.returncode == 2, answer.stderr  # for the broken picture
    assert "Traceback" not in answer.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parts_of_earlier_runs"] >= 1 and (result["pictures"], result["broken"]) == (40, 1)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    check_rows(out, in_one_piece)


def test_without_ray_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, pictures: Path
) -> None:
    import ssd_train.requirements

    monkeypatch.setattr(ssd_train.requirements.importlib.util, "find_spec", lambda name: None)
    answer = run("detect", model, pictures, "--ray", "--out", tmp_path / "out")
    assert answer.exit_code == 2
    assert "ssd-deploy[ray]" in answer.output + answer.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--part-size", "16"], "--ray"),
        (["--ray", "local", "--part-size", "12"], "multiple"),
        (["--ray", "local", "--track"], "leave out --ray"),
        (["--ray", "local", "--save", "crops"], "format of parts"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, model: Path, pictures: Path, words: list[str], sentence: str
) -> None:
    answer = run("detect", model, pictures, "--out", tmp_path / "out", *words)
    assert answer.exit_code == 2 and sentence in answer.stderr
    assert ray_data.LOCAL == "local" and not (tmp_path / "out").exists()
