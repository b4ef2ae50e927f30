"""onnxruntime sessions with threads that do not fight the server's own, and nothing that calls home."""

import logging
import os
from pathlib import Path

# The official builds send what they do to their maker. It is read when the library is loaded, so it comes first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from errors import SetupError

log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def open_session(path: Path, *, intra_op_threads: int = 1) -> ort.InferenceSession:
    """A session on CUDA where onnxruntime has it and it works, else on the CPU.

    Spinning is off: idle threads that spin take the cores from the event loop. Concurrency comes from the pool,
    so one thread an operation is the default. Raises SetupError when the file is not a usable model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if _CUDA in ort.get_available_providers():
        try:
            return ort.InferenceSession(str(path), options, providers=[_CUDA, _CPU])
        except Exception:  # a build with CUDA on a machine without its driver, or a full GPU
            log.warning("CUDA cannot be used for %s; it runs on the CPU", path.name)
    try:
        return ort.InferenceSession(str(path), options, providers=[_CPU])
    except Exception as error:  # onnxruntime raises bare classes of its own for every kind of fault
        raise SetupError(f"{path.name} cannot be opened as an ONNX model.") from error
