"""How a run is shared out over machines. Light."""

import dataclasses

from ssd_train.errors import BackendError
from ssd_train.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a command can be told about parts."""

    ray: str | None = option(
        None, "Detect by parts on a Ray cluster: local (also where nothing follows), auto, or HOST:PORT."
    )
    part_size: int = option(1024, "--ray: pictures of a part, a multiple of --batch-size.", least=1)
    actors: int | None = option(
        None, "--ray: detectors at once; without it one for each GPU, or for each --threads CPUs.", least=1
    )

    def check(self, batch_size: int) -> None:
        """Raise BackendError for parts whose batches would not be those of a run in one piece."""
        if self.part_size % batch_size:
            raise BackendError(
                f"parts of {self.part_size} pictures are no whole batches of {batch_size}; choose a multiple",
                arguments=("part_size",),
            )
