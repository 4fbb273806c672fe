"""Packages that report to their makers unless they are told not to.

ONNX Runtime does from 1.29 on: as it is imported, it writes a device id and a database of events under the home folder
and looks up a host of its vendor. Each looks at its variable while it is imported or first used, so they are set as
`ssd_train` is, which the other packages of this project import before anything else. Processes that are started later
inherit them.

OpenVINO does too: it sends that it was imported, and writes an id and a count under the home folder. It looks at no
variable, but reports through a package of its own and does without where that cannot be imported.
"""

import os
import sys

# What turns it off. A variable that is set already is the user's own choice.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# What can do nothing but report, and so is not imported. One that was imported already is the user's own choice.
REPORTERS = ("openvino_telemetry",)


def keep_quiet() -> None:
    """Turn off what the user has not decided about."""
    for name, off in SWITCHES.items():
        os.environ.setdefault(name, off)
    for name in REPORTERS:
        # Python's own way to say that there is no such module.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
