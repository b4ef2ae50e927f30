"""What is found in a plain statement and then found otherwise, or lost, when the same is written as people write notes.

    python -m benchmarks.metamorphic_notes                the demo's champion
    python -m benchmarks.metamorphic_notes --seeds 3      more notes

Failure A: found again with another type or assertion. Failure B: not found again. Prints both by transformation, and
how many of the plain statements themselves come out as they should.
"""

import argparse
from collections import defaultdict
from contextlib import ExitStack

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.side_by_side import champions
from runners.ner import NerRunner, Note
from tests.metamorphic import Tally, Written, look, plain_statements, written

_AT_ONCE = 32


def tally(runner: NerRunner, notes: list[Written], console: Console) -> tuple[dict[str, Tally], int, int]:
    """By transformation; and of the plain statements how many were found, and found with the right assertion."""
    plain = {}
    statements = sorted({note.statement for note in notes}, key=lambda one: (one.finding, one.assertion))
    for at in range(0, len(statements), _AT_ONCE):
        some = statements[at : at + _AT_ONCE]
        for one, prediction in zip(some, runner.run([Note(one.text) for one in some]), strict=True):
            start = one.text.index(one.finding)
            plain[one] = look(prediction.result, start, start + len(one.finding))
    found: dict[str, Tally] = defaultdict(Tally)
    for at in track(range(0, len(notes), _AT_ONCE), description="notes", console=console):
        group = notes[at : at + _AT_ONCE]
        for note, prediction in zip(group, runner.run([Note(note.text) for note in group]), strict=True):
            for entities in prediction.result["entities"].values():
                for one in entities:
                    assert note.text[one["start"] : one["end"]] == one["text"]
            if (before := plain[note.statement]) is None:
                continue
            of = found[note.transformation]
            of.notes += 1
            after = look(prediction.result, note.start, note.end)
            of.lost += after is None
            of.otherwise += after is not None and after != before
    right = sum(kind is not None and kind[1] == one.assertion for one, kind in plain.items())
    return found, sum(kind is not None for kind in plain.values()), right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=110)
    with ExitStack() as stack:
        (stored,) = [model for model in champions(stack) if model.manifest.kind == "clinical-ner"]
        runner = NerRunner(stored.path, stored.manifest.parameters)
        statements = plain_statements()
        notes = [note for seed in range(options.seeds) for note in written(statements, seed=seed)]
        found, seen, right = tally(runner, notes, console)
    table = Table("transformation", "notes", "otherwise (A)", "lost (B)")
    for name, of in sorted(found.items(), key=lambda item: -item[1].otherwise / item[1].notes):
        table.add_row(name, str(of.notes), f"{of.otherwise / of.notes:.1%}", f"{of.lost / of.notes:.1%}")
    count = sum(of.notes for of in found.values())
    otherwise, lost = sum(of.otherwise for of in found.values()), sum(of.lost for of in found.values())
    table.add_row("all", str(count), f"{otherwise / count:.2%}", f"{lost / count:.2%}")
    console.print(table)
    console.print(f"plain statements: {len(statements)}, found {seen}, with the right assertion {right}")


if __name__ == "__main__":
    main()
