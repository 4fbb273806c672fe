"""The command line: parse, call one library function, print its result.

Whatever is heavy is imported inside its command, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import enum
import functools
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from export.int8_metadata import Int8Target
from ssd_deploy.command_inputs import (
    Int8Options,
    check_results,
    export_engine,
    export_network,
    export_quantized,
    exported_for_now,
    open_dataset,
    open_images,
    open_network,
    open_runner,
    open_source,
    parse_list,
    parse_numbers,
    read_classes,
)
from ssd_train.cli import train
from ssd_train.command_errors import Commands
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.errors import BackendError, DatasetError

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text: boxes break long messages and paths apart.
    rich_markup_mode=None,
    help="Take a GluonCV-style SSD detector from its weights to a deployed model, and prove that nothing was lost.",
)


class BackendName(enum.StrEnum):
    AUTO = "auto"
    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Flavour(enum.StrEnum):
    AUTO = "auto"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class ExportPrecision(enum.StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class CalibrationMethod(enum.StrEnum):
    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


class Precision(enum.StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Provider(enum.StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class DatasetKind(enum.StrEnum):
    VOC = "voc"
    COCO = "coco"


class ProtocolName(enum.StrEnum):
    STANDARD = "standard"
    GLUONCV = "gluoncv"


NetworkOption = Annotated[str | None, typer.Option("--network", help="Network name; see `ssd-deploy models`.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Weight file (.params, .pth, .safetensors), shapes or random[:SEED]; "
        "without it the published ones are fetched."
    ),
]
ClassesOption = Annotated[
    Path | None, typer.Option(help="Class list of a _custom network: a text file, a name a line.")
]
ModelOption = Annotated[Path | None, typer.Option("--model", help="An exported .onnx file, or an .engine.")]
BackendOption = Annotated[
    BackendName, typer.Option(help="auto: torch for a network, onnxruntime for .onnx, an engine's own for .engine.")
]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="What a --network computes in; without it fp32.", show_default=False)
]
CudaGraphOption = Annotated[
    bool, typer.Option("--cuda-graph", help="Record the GPU's work once for each batch size and replay it.")
]
ProviderOption = Annotated[
    Provider | None, typer.Option(help="Where ONNX Runtime runs; without it cuda with --cuda, else cpu.")
]
CudaOption = Annotated[bool, typer.Option("--cuda/--cpu", help="Run on the GPU.")]
Tf32Option = Annotated[bool, typer.Option("--allow-tf32", help="Let the GPU round FP32 products to TF32.")]
DatasetOption = Annotated[DatasetKind, typer.Option(help="Annotation format; it decides the metric too.")]
DataRootOption = Annotated[
    Path | None, typer.Option(help="The data set's folder; default ~/.torch/datasets/voc or coco.", show_default=False)
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="voc: test, 2007_test, 2007_trainval,2012_trainval; coco: val2017.", show_default=False),
]
# A shell expands `--images *.jpg` to one value of the option and further words.
MoreImagesArgument = Annotated[list[str] | None, typer.Argument(help="Further images.", show_default=False)]
ProtocolOption = Annotated[
    ProtocolName, typer.Option(help="standard: the data set's own rules; gluoncv: those of GluonCV's published table.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images a call.")]
WorkersOption = Annotated[int, typer.Option("-j", "--workers", min=1, help="Threads that load and pre-process.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use the first N images only.")]
CalibrationDataOption = Annotated[
    Path | None, typer.Option(help="int8: folder with images like those to be detected in.", show_default=False)
]
CalibrationImagesOption = Annotated[
    int | None,
    typer.Option(min=1, help="int8: how many of them; without it 200, or all there are.", show_default=False),
]
CalibrationMethodOption = Annotated[
    CalibrationMethod | None,
    typer.Option(help="int8: how ranges follow from activations; without it percentile.", show_default=False),
]
ScoreOption = Annotated[float, typer.Option("--score-threshold", help="Candidates need a score above it.")]
NmsOption = Annotated[float, typer.Option("--nms-iou", help="NMS suppresses above this overlap.")]
TopKOption = Annotated[int, typer.Option("--pre-nms-top-k", help="Candidates an image that enter NMS.")]
MaxOption = Annotated[int, typer.Option("--max-detections", help="Detections kept an image.")]


@app.command()
def models(
    root: Annotated[Path | None, typer.Option(help="Folder of fetched weights.", show_default=False)] = None,
) -> None:
    """List the networks: size, work, published accuracy, and whether their weights are here."""
    from ssd_deploy.network_table import network_table
    from ssd_train.weights.store import default_root

    typer.echo(network_table(root or default_root()))


@app.command()
def doctor() -> None:
    """Say which backends work on this machine, and why each other does not."""
    from ssd_deploy.doctor import examine
    from ssd_deploy.text_table import text_table

    rows = [(name, "yes" if finding.works else "no", finding.detail) for name, finding in examine().items()]
    typer.echo(text_table(("backend", "works", "detail"), rows, left=3))


@app.command()
def fetch(
    network: Annotated[str, typer.Argument(help="Network name; see `ssd-deploy models`.")],
    root: Annotated[Path | None, typer.Option(help="Folder to keep the weights in.", show_default=False)] = None,
) -> None:
    """Download a network's published weights, check and convert them."""
    from ssd_deploy.detector import fetch_weights
    from ssd_deploy.progress import download_progress

    with download_progress(network) as on_progress:
        path = fetch_weights(network, root, on_progress)
    typer.echo(f"{path}")


@app.command()
def convert(
    network: Annotated[str, typer.Option(help="Network that the file was made for.")],
    weights: Annotated[Path, typer.Option(help="Weight file: .params, .pth or .safetensors, told by its content.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    classes: ClassesOption = None,
) -> None:
    """Convert any weight file to this project's safetensors."""
    from ssd_deploy.detector import load_network
    from ssd_train.files import sha256_of_file

    loaded = load_network(network, weights, read_classes(classes))
    from ssd_train.weights.convert import save_network

    save_network(loaded, out)
    typer.echo(f"{out}  ({len(loaded.config.class_names)} classes, SHA-256 {sha256_of_file(out)})")


@app.command()
def export(
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Instead of a network: an .onnx file to build an engine from.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("."),
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, tensorrt or onnx,tensorrt; without it onnx, or tensorrt for --model.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        ExportPrecision | None,
        typer.Option(help="What the network computes in; without it fp32; int8 needs images.", show_default=False),
    ] = None,
    calibration_data: CalibrationDataOption = None,
    calibration_images: CalibrationImagesOption = None,
    calibration_method: CalibrationMethodOption = None,
    int8_target: Annotated[
        Int8Target | None,
        typer.Option(
            help="int8: portable (for TensorRT and ONNX Runtime), or cpu, faster in ONNX Runtime; without it portable.",
            show_default=False,
        ),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="int8: measure what each layer costs; writes a table and a chart.")
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="int8, with --sensitivity: points of agreement AP that may be lost; the worst layers stay float "
            "until it is met.",
            show_default=False,
        ),
    ] = None,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd",
            help="fp32: write a second ONNX file, with Winograd's convolutions: faster on a CPU, takes more memory.",
        ),
    ] = False,
    optimize_for_cpu: Annotated[
        bool,
        typer.Option(
            "--optimize-for-cpu",
            help="Write one more ONNX file, for this CPU and ONNX Runtime alone: opens faster, takes less memory.",
        ),
    ] = False,
    score_threshold: ScoreOption = 0.01,
    nms_iou: NmsOption = 0.45,
    pre_nms_top_k: TopKOption = 400,
    max_detections: MaxOption = 100,
    flavour: Annotated[
        Flavour, typer.Option(help="auto: tensorrt where it is installed, else tensorrt-rtx.")
    ] = Flavour.AUTO,
    min_batch: Annotated[int, typer.Option(help="Smallest batch that the engine takes.")] = 1,
    opt_batch: Annotated[
        int | None,
        typer.Option(help="Batch that the engine is tuned for; without it the smallest.", show_default=False),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Largest batch that the engine takes.")] = 8,
    allow_tf32: Annotated[
        bool, typer.Option("--allow-tf32", help="Let an engine round FP32 products to TF32.")
    ] = False,
    workspace_mib: Annotated[
        int | None, typer.Option(help="Most scratch memory of a layer in MiB.", show_default=False)
    ] = None,
    optimization_level: Annotated[int, typer.Option(help="0, a quick build, to 5, a fast engine.")] = 3,
    target_sm: Annotated[
        str | None,
        typer.Option(
            help="tensorrt-rtx: compute capabilities to build for, such as 75,86,120; without it Ampere and later.",
            show_default=False,
        ),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: later versions may load the engine.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: every GPU from Ampere on may load the engine.")
    ] = False,
) -> None:
    """Write one ONNX file with decode and NMS inside, checked against PyTorch, and TensorRT engines of it."""
    from export.engine_file import BuildOptions
    from ssd_train.spec import PostprocessSettings

    settings = PostprocessSettings(
        score_threshold=score_threshold,
        nms_iou_threshold=nms_iou,
        pre_nms_top_k=pre_nms_top_k,
        max_detections=max_detections,
    )
    if (network is None) == (model is None):
        raise BackendError("name either --network (with --weights) or --model FILE.onnx")
    formats = parse_list(format or ("onnx" if model is None else "tensorrt"), ("onnx", "tensorrt"), "--format")
    options = BuildOptions(
        min_batch=min_batch,
        opt_batch=min_batch if opt_batch is None else opt_batch,
        max_batch=max_batch,
        allow_tf32=allow_tf32,
        workspace_mib=workspace_mib,
        optimization_level=optimization_level,
        target_sm=parse_numbers(target_sm, "--target-sm"),
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    if "tensorrt" not in formats and (options != BuildOptions() or flavour != Flavour.AUTO):
        raise BackendError("the options of an engine need --format tensorrt, or onnx,tensorrt")
    if model is not None and settings != PostprocessSettings():
        raise BackendError(f"{model}: is exported already, with its thresholds and counts inside; leave yours out")
    int8 = Int8Options(
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        int8_target=int8_target,
        sensitivity=sensitivity,
        max_drop=max_drop,
    )
    int8.check([precision or "fp32"], formats)
    for option, is_given in (("--winograd", winograd), ("--optimize-for-cpu", optimize_for_cpu)):
        if is_given and "onnx" not in formats:
            raise BackendError(f"{option} writes an ONNX file: it needs --network, and --format onnx")
    if winograd and precision not in (None, ExportPrecision.FP32):
        raise BackendError(f"--winograd computes in float32: leave --precision {precision} out")
    if "tensorrt" in formats:
        from ssd_deploy.engines import check_buildable

        check_buildable(options, flavour)
    with contextlib.ExitStack() as stack:
        if model is not None:
            if "onnx" in formats or precision is not None or weights is not None or classes is not None:
                raise BackendError(
                    f"{model}: is exported already, so --format onnx, --precision, --weights and --classes do not apply"
                )
            path, kept = model, False
        else:
            loaded = open_network(str(network), weights, classes)
            kept = "onnx" in formats
            folder = out if kept else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ssd-deploy-")))
            if precision == ExportPrecision.INT8:
                written, path = export_quantized(loaded, folder, out, settings, int8)
                typer.echo("\n".join(written))
            else:
                path = export_network(loaded, folder, settings, precision or "fp32")
        if kept:
            typer.echo(str(path))
        for_cpu = path
        if winograd:
            from export.winograd import export_winograd

            faster = export_winograd(path)
            typer.echo(str(faster or f"{path}: none of its convolutions gains by Winograd's algorithm"))
            for_cpu = faster or path
        if optimize_for_cpu:
            from export import cpu_graph

            typer.echo(str(cpu_graph.optimize_for_cpu(for_cpu)))
        if "tensorrt" in formats:
            typer.echo(export_engine(path, options, flavour, out))


app.command()(train)


@app.command()
def shapes(
    out: Annotated[Path, typer.Option(help="Folder to make, in Pascal VOC's layout.")],
    train: Annotated[int, typer.Option(min=1, help="Pictures for training.")] = 4000,
    val: Annotated[int, typer.Option(min=1, help="Pictures held out; the first ones are always the same.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Decides every picture.")] = 1,
) -> None:
    """Generate a data set of shapes to train, evaluate and try things on, with no download."""
    from ssd_deploy.progress import turn_progress
    from ssd_train.datasets.generated_files import write_shapes

    with turn_progress("drawing") as on_progress:
        folder = write_shapes(out, train=train, val=val, seed=seed, on_progress=on_progress)
    typer.echo(str(folder))


@app.command("eval")
def evaluate(
    dataset: DatasetOption,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    model: ModelOption = None,
    backend: BackendOption = BackendName.AUTO,
    provider: ProviderOption = None,
    cuda: CudaOption = False,
    allow_tf32: Tf32Option = False,
    precision: PrecisionOption = None,
    cuda_graph: CudaGraphOption = False,
    data_root: DataRootOption = None,
    split: SplitOption = None,
    protocol: ProtocolOption = ProtocolName.STANDARD,
    batch_size: BatchOption = 8,
    data_shape: Annotated[
        int | None, typer.Option(help="Input size that the detector must have, 300 or 512.", show_default=False)
    ] = None,
    workers: WorkersOption = 2,
    limit: LimitOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the whole report here.", show_default=False)] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Write the detections here, in COCO's result format.", show_default=False)
    ] = None,
) -> None:
    """Score a detector on a data set: VOC07 mAP, or COCO's twelve numbers."""
    from ssd_deploy.progress import image_progress
    from ssd_train.datasets.coco_results import write_results
    from ssd_train.evaluation.evaluate import score
    from ssd_train.evaluation.loop import run_detector
    from ssd_train.files import write_json
    from ssd_train.metrics.protocol import Protocol

    check_results(json, detections)
    with open_runner(
        network=network,
        weights=weights,
        classes=classes,
        model=model,
        backend=backend,
        provider=provider,
        cuda=cuda,
        allow_tf32=allow_tf32,
        precision=precision,
        cuda_graph=cuda_graph,
        batch_size=batch_size,
    ) as runner:
        spec = runner.spec
        if data_shape is not None and spec.input_size != (data_shape, data_shape):
            raise DatasetError(
                f"--data-shape {data_shape} does not fit {spec.network}, whose input is {spec.input_size[0]} pixels; "
                "leave the option out or choose another network"
            )
        data = open_dataset(dataset, data_root, split, spec.class_names, limit)
        with image_progress(runner.name, len(data.samples)) as on_progress:
            found = run_detector(
                data.samples,
                runner.run,
                spec,
                batch_size=min(batch_size, runner.max_batch_size or batch_size),
                workers=workers,
                on_progress=on_progress,
            )
        backend_used = runner.name
    # Written before the metric is computed: hours of detections outlive whatever goes wrong after them.
    if detections is not None:
        write_results(detections, data, found)
    report = score(data, found, spec, metric=LAYOUTS[dataset].metric, protocol=Protocol(protocol.value))
    typer.echo(f"backend: {backend_used}, {spec.precision}, weights: {spec.weights}")
    typer.echo("\n".join(report.lines()))
    if json is not None:
        write_json(json, report.to_dict() | {"backend": backend_used, "detector": dataclasses.asdict(spec)})


@app.command()
def parity(
    network: Annotated[str, typer.Option(help="Network name; see `ssd-deploy models`.")],
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Exported .onnx or .engine; may be repeated; without it one is made.", show_default=False),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precisions to export and compare, such as fp32,fp16,int8.", show_default=False)
    ] = None,
    calibration_data: CalibrationDataOption = None,
    calibration_images: CalibrationImagesOption = None,
    calibration_method: CalibrationMethodOption = None,
    dataset: Annotated[DatasetKind | None, typer.Option(help="Data set with ground truth.", show_default=False)] = None,
    data_root: DataRootOption = None,
    split: SplitOption = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Instead of a data set: file, folder or pattern.", show_default=False)
    ] = None,
    more_images: MoreImagesArgument = None,
    protocol: ProtocolOption = ProtocolName.STANDARD,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference of the metric, a fraction; fp32 1e-4, fp16 and int8 5e-3.", show_default=False
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Lowest agreement AP, a fraction; fp32 0.999, fp16 0.98, int8 0.3.", show_default=False),
    ] = None,
    batch_size: BatchOption = 1,
    workers: WorkersOption = 2,
    limit: LimitOption = None,
    cuda: CudaOption = False,
    allow_tf32: Tf32Option = False,
    json: Annotated[Path | None, typer.Option(help="Write all comparisons here.", show_default=False)] = None,
) -> None:
    """Compare every backend that works here with PyTorch on the same images; exit 1 where one differs."""
    from ssd_deploy.parity import TOLERANCES
    from ssd_train.files import write_json
    from ssd_train.metrics.protocol import Protocol

    if (dataset is None) == (not images) or (more_images and not images):
        raise DatasetError("name either --dataset (with --data-root) or --images to compare on")
    if model and precision is not None:
        raise BackendError("--precision belongs to models that are exported for the comparison, not to --model")
    precisions = parse_list(precision or "fp32", tuple(ExportPrecision), "--precision")
    int8 = Int8Options(
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
    )
    int8.check(precisions, ())
    asked = {"metric": tolerance, "agreement": min_agreement}
    changes = {name: value for name, value in asked.items() if value is not None}
    tolerances = {name: dataclasses.replace(usual, **changes) for name, usual in TOLERANCES.items()}
    check_results(json)
    loaded = open_network(network, weights, classes)
    class_names = loaded.config.class_names
    data = (
        open_images([*(images or []), *(more_images or [])], class_names, limit)
        if dataset is None
        else open_dataset(dataset, data_root, split, class_names, limit)
    )
    from ssd_deploy import parity_run  # needs torch, which loading the network has asked for

    with contextlib.ExitStack() as stack:
        models = model or [stack.enter_context(exported_for_now(loaded, name, int8)) for name in precisions]
        outcome = parity_run.run(
            loaded,
            models,
            data,
            metric=LAYOUTS[dataset].metric if dataset else None,
            protocol=Protocol(protocol.value),
            tolerances=tolerances,
            batch_size=batch_size,
            workers=workers,
            reference_device="cuda" if cuda else "cpu",
            allow_tf32=allow_tf32,
        )
    typer.echo(outcome.text())
    if json is not None:
        write_json(json, outcome.to_dict())
    if not outcome.passed:
        raise typer.Exit(1)


@app.command()
def detect(
    images: Annotated[list[str], typer.Option(help="Image file, folder or pattern; may be repeated.")],
    more_images: MoreImagesArgument = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    model: ModelOption = None,
    backend: BackendOption = BackendName.AUTO,
    provider: ProviderOption = None,
    cuda: CudaOption = False,
    allow_tf32: Tf32Option = False,
    precision: PrecisionOption = None,
    cuda_graph: CudaGraphOption = False,
    out: Annotated[Path, typer.Option(help="Folder for annotated pictures and detections.json.")] = Path("detections"),
    threshold: Annotated[float, typer.Option(help="Lowest score that is shown.")] = 0.5,
    batch_size: BatchOption = 8,
) -> None:
    """Detect in pictures: write annotated copies and a JSON file."""
    from ssd_deploy.detect_files import detect_files
    from ssd_deploy.detector import Detector
    from ssd_deploy.progress import image_progress
    from ssd_train.image_files import find_images

    paths = find_images([*images, *(more_images or [])], leave_out=out)
    with open_runner(
        network=network,
        weights=weights,
        classes=classes,
        model=model,
        backend=backend,
        provider=provider,
        cuda=cuda,
        allow_tf32=allow_tf32,
        precision=precision,
        cuda_graph=cuda_graph,
        batch_size=batch_size,
    ) as runner:
        detector = Detector(runner, batch_size=batch_size)
        with image_progress(runner.name, len(paths)) as on_progress:
            result = detect_files(detector, paths, out, threshold=threshold, on_progress=on_progress)
    for picture, count in zip(result.pictures, result.counts, strict=True):
        typer.echo(f"{picture}  {count} detections of at least {threshold:g}")
    typer.echo(str(result.json_path))
    for error in result.errors:
        typer.echo(f"Error: {error}", err=True)
    if result.errors:
        raise typer.Exit(2)


@app.command()
def benchmark(
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    model: ModelOption = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Such as torch,torch:compile+channels-last,onnxruntime:cuda,tensorrt:cuda-graph; without it torch "
            "and onnxruntime for a network, and for a model file what runs it.",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Images a call.")] = "1,8,32",
    precision: Annotated[
        str | None, typer.Option(help="Of a network: fp32,fp16,bf16; without it fp32.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves each library its default.")] = 0,
    images: Annotated[
        list[str] | None,
        typer.Option(help="File, folder or pattern; without it generated pictures.", show_default=False),
    ] = None,
    more_images: MoreImagesArgument = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each backend gets.")] = 5,
    cuda: CudaOption = False,
    allow_tf32: Tf32Option = False,
    json: Annotated[Path | None, typer.Option(help="Write all numbers here.", show_default=False)] = None,
    chart: Annotated[Path | None, typer.Option(help="Write a PNG chart here.", show_default=False)] = None,
) -> None:
    """Measure latency and throughput of backends side by side, network alone and from JPEG file to detections."""
    from export.engine_file import BuildOptions
    from ssd_deploy.benchmark.chart import write_chart
    from ssd_deploy.benchmark.measure import BenchmarkSettings
    from ssd_deploy.benchmark.run import parse_backends
    from ssd_deploy.benchmark.run import run as run_benchmark
    from ssd_deploy.engines import tensorrt_opener
    from ssd_deploy.progress import turn_progress
    from ssd_train.files import write_json
    from ssd_train.image_files import find_images
    from ssd_train.requirements import require

    check_results(json, chart)
    if chart is not None:
        require("matplotlib", "plots", "A chart")
    if more_images and not images:
        raise DatasetError(f"{more_images[0]}: belongs to --images, which is not there")
    settings = BenchmarkSettings(batch_sizes=parse_numbers(batch_sizes, "--batch-sizes"), rounds=rounds)
    files = find_images([*images, *(more_images or [])]) if images else []
    largest = max(settings.batch_sizes)
    options = BuildOptions(opt_batch=largest, max_batch=largest, allow_tf32=allow_tf32)
    precisions = None if precision is None else parse_list(precision, tuple(Precision), "--precision")
    with contextlib.ExitStack() as stack:
        source, default_backends = stack.enter_context(open_source(network, weights, classes, model, precisions))
        report = run_benchmark(
            source,
            parse_backends(backends or default_backends),
            settings,
            images=files,
            cuda=cuda,
            threads=threads,
            allow_tf32=allow_tf32,
            open_tensorrt=functools.partial(tensorrt_opener, options=options),
            on_turn=stack.enter_context(turn_progress("measuring")),
        )
    typer.echo(report.text())
    if json is not None:
        write_json(json, report.to_dict())
    if chart is not None:
        write_chart(report, chart)


def main() -> None:
    """Entry point of the `ssd-deploy` script."""
    # OpenCV, once it is loaded, would print lines of its own around our errors.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    app()
