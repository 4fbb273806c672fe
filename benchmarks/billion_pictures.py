"""What would a billion pictures take on so many machines? On paper, from measured rates.

    python benchmarks/billion_pictures.py [--from RESULTS.json] [--pictures 1e9] [--cores 16] [--part-size 16384]
    python benchmarks/billion_pictures.py --write docs/many-machines.md

RESULTS.json is what `many_machines.py` wrote. A core brings what one actor on one core brought, its start left out;
machines share nothing but the storage and the driver, so pictures a second are those of a core times the cores until
one of the two is exhausted. Where that is, is told, too, behind the measurements as a table. `--write` puts the lines
into a page, between their marks.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ssd_train.files import written_atomically

RESULTS = Path(__file__).parent / "results" / "2-core-cpu" / "many_machines.json"
MACHINES = (1, 10, 100, 1000)
BEGIN, END = "<!-- billion_pictures.py -->\n", "<!-- end -->\n"

# Beside a GPU, for loading alone.
GPU_MACHINE_CORES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured.

    Attributes:
        core: pictures a second that one core brings.
        loading: pictures a second that a core loads and pre-processes where it does nothing else.
        bytes_in, bytes_out: of a picture.
        driver: parts a second.
    """

    core: float
    loading: float
    bytes_in: float
    bytes_out: float
    driver: float


def read_rates(results: dict[str, Any]) -> Rates:
    alone = next(row for row in results["commands"] if row["cores"] == row["actors"] == 1)
    steps = results["steps"]
    return Rates(
        core=alone["actor_pictures_per_second"],
        loading=1e3 / (steps["load_ms"] + steps["preprocess_ms"]),
        bytes_in=results["bytes_in"],
        bytes_out=alone["bytes_out"],
        driver=results["driver_parts_per_second"],
    )


TEXT = """\
A core brings {core:.1f} pictures a second; loading and pre-processing are {loading_share:.0%} of its work.
So {pictures:,.0f} pictures are **{core_hours:,.0f} core-hours**; {tb_in:,.0f} TB are read and {gb_out:,.0f} GB written,
in {parts:,.0f} parts of {part_size:,}, each of which takes a core {part_minutes:.1f} minutes.

| machines of {cores} cores | hours | pictures/s | read, GB/s | written, MB/s | parts/s |
|---|---|---|---|---|---|
{rows}

- Storage: each GB/s that it reads feeds {cores_a_gb:,.0f} cores.
- The driver does {driver:.0f} parts/s: with parts of {part_size:,} pictures it keeps up with {driver_cores:,.0f} cores,
  with parts of 1,024 with {driver_cores_1024:,.0f}.
- Beside a GPU {gpu_machine_cores} such cores load and pre-process {loaded:.0f} pictures/s, {pictures:,.0f} in
  {loading_hours:,.0f} hours. A GPU that is faster waits for them; give it more cores, or smaller pictures.
"""


def on_paper(rates: Rates, loading_share: float, *, pictures: float, cores: int, part_size: int) -> str:
    """Return Markdown; cores are those of a machine."""
    rows = []
    for machines in MACHINES:
        speed = rates.core * machines * cores
        rows.append(
            f"| {machines:,} | {pictures / speed / 3600:,.1f} | {speed:,.0f} | {speed * rates.bytes_in / 1e9:.2f} "
            f"| {speed * rates.bytes_out / 1e6:.2f} | {speed / part_size:.2f} |"
        )
    loaded = GPU_MACHINE_CORES * rates.loading
    return TEXT.format(
        core=rates.core,
        loading_share=loading_share,
        pictures=pictures,
        core_hours=pictures / rates.core / 3600,
        tb_in=pictures * rates.bytes_in / 1e12,
        gb_out=pictures * rates.bytes_out / 1e9,
        parts=pictures / part_size,
        part_size=part_size,
        part_minutes=part_size / rates.core / 60,
        cores=cores,
        rows="\n".join(rows),
        cores_a_gb=1e9 / rates.bytes_in / rates.core,
        driver=rates.driver,
        driver_cores=rates.driver * part_size / rates.core,
        driver_cores_1024=rates.driver * 1024 / rates.core,
        gpu_machine_cores=GPU_MACHINE_CORES,
        loaded=loaded,
        loading_hours=pictures / loaded / 3600,
    )


def measured(results: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    height, width = results["image_size"]
    environment = results["environment"]
    lines = [
        f"{results['pictures']:,} pictures of {width}x{height}, `{results['network']}` in float32, a thread a "
        f"detector, {environment['cpu']}:",
        "",
        "| command | s | pictures/s | of one core's | peak MB, pages shared by processes counted in each / once |",
        "|---|---|---|---|---|",
    ]
    for row in results["commands"]:
        lines.append(
            f"| {row['name']} | {row['seconds']:.1f} | {row['pictures_per_second']:.1f} | {row['times_one_core']:.2f} "
            f"| {row['rss_mb']:.0f} / {row['pss_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="results", type=Path, default=RESULTS, metavar="RESULTS.json")
    parser.add_argument("--pictures", type=float, default=1e9)
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--part-size", type=int, default=16384)
    parser.add_argument("--write", type=Path, metavar="PAGE.md")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    steps = results["steps"]
    text = measured(results) + on_paper(
        read_rates(results),
        1 - steps["network_ms"] / sum(steps.values()),
        pictures=options.pictures,
        cores=options.cores,
        part_size=options.part_size,
    )
    print(text, end="")
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        with written_atomically(options.write) as temporary:
            temporary.write_text(before + BEGIN + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
