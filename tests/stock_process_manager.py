"""The service as it would be without its supervisor: to see that the worker itself refuses to start then."""

import circus.arbiter
from bentoml._internal.utils import circus as bentoml_circus

_of_bentoml = bentoml_circus.create_standalone_arbiter
_of_circus = circus.arbiter.Arbiter.initialize

from service import FollowupML  # noqa: E402

bentoml_circus.create_standalone_arbiter = _of_bentoml
circus.arbiter.Arbiter.initialize = _of_circus

__all__ = ["FollowupML"]
