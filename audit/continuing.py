"""Whether what is stored may be signed any further: only where it continues all that is known to have been signed.

Or where a signed statement says what was lost, and that is just what is known to have been signed last.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from audit.last_signed import LastSigned
from audit.restoration import Stated
from audit.stored_tree import Head, StoredTree
from errors import SetupError

log = logging.getLogger(__name__)

ANOTHER_CLUSTER: Final = (
    "The database has fewer transactions than were sealed already: it was restored into another cluster."
    " docs/audit.md says what to do."
)


def restoration_to_go_on_from(
    tree: StoredTree, head: Head, last: LastSigned, read: Callable[[], Sequence[Stated]], *, went_back: bool
) -> Stated | None:
    """The statement that must be sealed next, None where the tree simply goes on.

    `went_back`: the database has fewer transactions than were sealed. Raises SetupError when nothing may be signed.
    """
    known = deque([*last.unproven, *([] if last.newest is None else [last.newest])])
    if last.newest is not None and not went_back and all(tree.begins_with(one, head) for one in known):
        return None
    statements = read()
    size, root = head.frontier.size, head.frontier.root
    pending = [s for s in statements if s.index is None and (s.restoration.size, s.restoration.root) == (size, root)]
    sealed = [s for s in statements if s.index == s.restoration.size and tree.has_leaf(s.index, s.leaf, head)]
    matching: Stated | None = None
    while known:
        one = known.popleft()
        matching = next((s for s in pending if s.restoration.is_from(one)), matching)
        if tree.begins_with(one, head):
            continue
        if not any(s.restoration.explains(one) for s in (*sealed, *pending)):
            log.error("sealer: what was signed before is not in the database any more; nothing is signed")
            raise SetupError(
                "The stored tree does not continue what was signed last: records were removed, or the database was"
                " put back to an earlier state. docs/audit.md says what to do."
            )
        if (older := last.older_anchor()) is not None:  # that one was lost: the next one down says more
            known.append(older)
    if pending and matching is None:
        raise SetupError("A statement says that the database was restored, and not from what was signed last.")
    if went_back and matching is None:
        raise SetupError(ANOTHER_CLUSTER)
    return matching
