"""A network and images in, a folder with files and their certificate out."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_deploy.backends import BackendChoice, RunOptions, open_model
from ssd_deploy.benchmark.fastest.candidates import Candidate
from ssd_deploy.benchmark.fastest.choose import Trial, fastest
from ssd_deploy.benchmark.fastest.commands import Named, using
from ssd_deploy.benchmark.fastest.forms import FLOAT
from ssd_deploy.benchmark.fastest.trials import Running
from ssd_deploy.parity.reference import Reference, reference_of
from ssd_deploy.parity.run import ShowProgress, find_places, no_progress
from ssd_deploy.ship import certificate as parts
from ssd_deploy.ship.assemble import Outcome, assemble
from ssd_deploy.ship.certificate import FAIL, JSON_NAME, PAGE_NAME, PASS, Certificate, NotRun
from ssd_deploy.ship.files import Model, StagedFiles, build_engine, write_bundle
from ssd_deploy.ship.images import SAMPLES_FOLDER, Answer, copy_images, data_sha256
from ssd_deploy.ship.judge import BATCH_SIZE, Judge, Judged, choice_of, reference_check
from ssd_deploy.ship.page import write_certificate_page
from ssd_deploy.ship.settings import Shipping
from ssd_deploy.ship.stages import KEPT_NAME, Stages, name_in, named_from
from ssd_deploy.ship.targets import HALF, forms_of
from ssd_deploy.ship.timing import SETTINGS, Runs, time_all
from ssd_train.datasets.dataset import Dataset
from ssd_train.environment import describe_environment
from ssd_train.errors import BackendError, ModelError, ResultError, SSDDeployError
from ssd_train.files import check_writable, remove_unfinished, sha256_of_file, write_json
from ssd_train.json_input import convert

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

log = logging.getLogger(__name__)

# What the row of the reference is called among the times.
REFERENCE = "reference"


def check_out(out: Path) -> None:
    """Raise before any work for a folder that cannot be written, or that has something else in it.

    Raises:
        ResultError: it holds files, and no earlier shipment.
        SSDDeployError: it cannot be written.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / KEPT_NAME).is_dir():
        raise ResultError(f"{out}: has other files; name an empty folder, or one that ship began", arguments=("out",))
    check_writable(out / JSON_NAME)


def ship(
    network: "SSD | Path",
    dataset: Dataset,
    out: Path,
    shipping: Shipping,
    *,
    show_progress: ShowProgress = no_progress,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> Certificate:
    """Make everything, hold it against the reference, time it, and write the certificate.

    Args:
        network: float32, in PyTorch or as a file that `is_adopted`; the reference.
        dataset: the images that are scored; none of them is calibrated on.
        out: the folder; what an interrupted run left in it is gone on with.

    Raises:
        ResultError, SSDDeployError: `out` cannot be written, see `check_out`.
        BackendError: float32 cannot be exported or run here.
        DatasetError, ImageError: there is nothing to compare on.
    """
    check_out(out)
    out = out.resolve()
    # From now on the folder is known as one of ours, whenever this is interrupted.
    (out / KEPT_NAME).mkdir(parents=True, exist_ok=True)
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        remove_unfinished(folder)
    asked, criteria = shipping.asked, shipping.criteria
    forms = forms_of(asked)
    engines = [(each, form) for each in asked for form in each.target.engines_of]
    bundles = [each for each in asked if each.target.bundle is not None]
    stages = Stages(out, total=2 * (len(forms) + len(engines)) + len(bundles) + 4)
    places, absent = find_places(shipping.backends)
    not_run = [NotRun(what=what, why=why) for what, _, why in (each.partition(": ") for each in absent)]

    right = reference_of(network)
    files = StagedFiles(network, shipping.calibrating.int8, shipping.calibration, stages)
    models: list[Model] = []

    # What was asked for and could not be made, other than what gains nothing.
    missing: list[str] = []

    def left_out(what: str, why: object, *, is_missing: bool = True) -> None:
        reason = named_from(out, str(why))
        log.info("left out: %s: %s", what, reason)
        not_run.append(NotRun(what=what, why=reason))
        missing.extend([what] if is_missing else [])

    for form in forms:
        if form.target is not None and shipping.calibration is None:
            left_out(str(form), shipping.calibrating.why_not)
            continue
        try:
            models.append(Model(path=files.path(form), form=form, what=str(form), made_of=files.made_of(form)))
        except SSDDeployError as error:
            if form == FLOAT:
                raise
            left_out(str(form), error, is_missing=not form.steps)
    of_onnx = {model.form: model for model in models}
    for each, form in engines:
        if form not in of_onnx:
            left_out(f"{each} {form}", "the file that it is made of is not there")
            continue
        try:
            models.append(build_engine(stages, each, of_onnx[form]))
        except SSDDeployError as error:
            left_out(f"{each} {form}", error)

    # The reference, each file, the samples, the times, the certificate.
    stages.expect(1 + len(models) + len(bundles) + 3)
    data = data_sha256(dataset)
    runner = open_model(
        right.backend,
        network,
        RunOptions(device=shipping.device, batch_size=BATCH_SIZE, beside_readers=True, with_raw=True),
    )
    try:
        judge = Judge(
            runner, dataset, data, stages,
            metric=shipping.metric, protocol=shipping.protocol, criteria=criteria, places=places,
            samples=shipping.samples, workers=shipping.workers, allow_tf32=shipping.allow_tf32,
            show_progress=show_progress,
        )  # fmt: skip
        judged: list[tuple[Model, Judged]] = []
        for model in models:
            name = name_in(model.path, out)
            try:
                found = judge.judge(model)
            except (BackendError, ModelError) as error:
                left_out(name, error)
                continue
            judged += [(model, each) for each in found.judged]
            not_run += [NotRun(what=name, why=named_from(out, why)) for why in found.not_run]
    finally:
        runner.close()
    reference = reference_check(judge.reference, BackendChoice(backend=right.backend))

    failed = {each.check.file for _, each in judged if each.check.verdict == FAIL}
    for each in bundles:
        half = of_onnx.get(HALF)
        source = of_onnx[FLOAT] if half is None or name_in(half.path, out) in failed else half
        try:
            write_bundle(stages, each, source)
        except SSDDeployError as error:
            left_out(str(each), error)
    samples = _samples(stages, judge)
    checks, reference, chosen = _timed(
        stages, right, judged, reference, shipping, [sample.path for sample in dataset.samples], on_turn
    )
    stages.begin("certificate")
    stages.remove_older()

    made = assemble(
        Outcome(
            shipping=shipping, spec=right.spec, dataset=dataset, data_sha256=data, models=models,
            judged=[each for _, each in judged], checks=checks, reference=reference, report=judge.reference.report,
            threshold=judge.threshold, fastest=chosen, samples=samples, files=stages.files, not_run=not_run,
            missing=missing,
        ),
        out,
    )  # fmt: skip
    page = write_certificate_page(out / PAGE_NAME, made, [each for _, each in judged])
    made = dataclasses.replace(
        made,
        files=[
            *made.files,
            parts.File(
                path=PAGE_NAME,
                sha256=sha256_of_file(page),
                size_bytes=page.stat().st_size,
                what="this certificate for people",
            ),  # fmt: skip
        ],
    )
    write_json(out / JSON_NAME, dataclasses.asdict(made))
    return made


def _samples(stages: Stages, judge: Judge) -> list[parts.Sample]:
    """Copy the images that travel along, and return them with the reference's answers."""
    chosen = [judge.dataset.samples[number] for number in judge.samples]
    hashes = [sha256_of_file(sample.path) for sample in chosen]

    def work() -> tuple[dict[str, Any], Sequence[Path]]:
        copies = copy_images(chosen, stages.folder / SAMPLES_FOLDER)
        return {"files": [name_in(copy, stages.folder) for copy in copies]}, copies

    names = stages.run("samples", hashes, work)["files"]
    return [
        parts.Sample(
            file=name,
            image_size=list(sample.image_size),
            **dataclasses.asdict(Answer.of(judge.reference.detections[number])),
        )
        for name, sample, number in zip(names, chosen, judge.samples, strict=True)
    ]


def _timed(
    stages: Stages,
    right: Reference,
    judged: Sequence[tuple[Model, Judged]],
    reference: parts.Check,
    shipping: Shipping,
    images: Sequence[Path],
    on_turn: Callable[[int, int], object],
) -> tuple[list[parts.Check], parts.Check, parts.Fastest | None]:
    """Time everything that ran; return the checks and the reference with their times, and what is fastest."""
    names = {id(each): f"{each.check.file} in {each.check.backend}" for _, each in judged}
    runs = [
        Runs(name=REFERENCE, model=right.model, choice=BackendChoice(backend=right.backend), device=shipping.device)
    ]
    for model, each in judged:
        backend = each.check.backend.partition(":")[0]
        choice = choice_of(backend, each.device, each.variants)
        runs.append(Runs(name=names[id(each)], model=model.path, choice=choice, device=each.device))
    hashes = [[run.name, sha256_of_file(run.model)] for run in runs if isinstance(run.model, Path)]
    environment = describe_environment()
    inputs = [
        hashes, dataclasses.asdict(right.spec), dataclasses.asdict(SETTINGS), shipping.threads, shipping.device,
        shipping.allow_tf32, environment.cpu, environment.cores, environment.gpu, list(map(str, images)),
    ]  # fmt: skip

    def work() -> tuple[dict[str, Any], Sequence[Path]]:
        spans, skipped = time_all(
            runs, images, threads=shipping.threads, allow_tf32=shipping.allow_tf32, on_turn=on_turn
        )
        for sentence in skipped:
            log.warning("not timed: %s", sentence)
        plain = {name: {span: dataclasses.asdict(each) for span, each in of.items()} for name, of in spans.items()}
        return {"spans": plain}, []

    found = stages.run("time", inputs, work)["spans"]
    spans: dict[str, dict[str, parts.Latency]] = convert(found, dict[str, dict[str, parts.Latency]])
    # Of the float32 file, in the first backend that took it.
    base = next(
        (spans[names[id(each)]] for model, each in judged if model.form == FLOAT and names[id(each)] in spans), None
    )

    def with_times(check: parts.Check, name: str) -> parts.Check:
        own = spans.get(name)
        times = None if own is None or base is None else base["network"].p50_ms / own["network"].p50_ms
        return dataclasses.replace(check, latency=own, times_float32=times)

    checks = [with_times(each.check, names[id(each)]) for _, each in judged]
    trials = {}
    for (model, each), check in zip(judged, checks, strict=True):
        if check.verdict == PASS and check.latency is not None and check.times_float32 is not None:
            candidate = Candidate(
                form=model.form, choice=choice_of(each.check.backend.partition(":")[0], each.device, each.variants)
            )
            ms = check.latency["network"].p50_ms
            trial = Trial(
                candidate=candidate, runner=check.runner, precision=check.precision, threads=None, ms=ms,
                float_ms=ms * check.times_float32, loss=each.loss,
            )  # fmt: skip
            trials[id(trial)] = (trial, check)
    best = fastest([trial for trial, _ in trials.values()])
    if best is None:
        return checks, with_times(reference, REFERENCE), None
    _, check = trials[id(best)]
    running = Running(device=shipping.device, allow_tf32=shipping.allow_tf32, batch_size=BATCH_SIZE)
    chosen = parts.Fastest(
        file=check.file,
        backend=check.backend,
        p50_ms=best.ms,
        times_float32=best.times_as_fast,
        command=using(Named(words=(), file=None, arguments=()), Path(check.file), best.candidate, running),
    )
    return checks, with_times(reference, REFERENCE), chosen
