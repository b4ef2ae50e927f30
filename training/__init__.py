"""Making models. Run from the command line; nothing that serves imports it."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # the official builds of onnxruntime send what they do to their maker
