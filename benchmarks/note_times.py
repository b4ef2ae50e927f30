"""What one note costs: of 20, 300 and 5,000 words, and of 20,000 characters that were made to be slow.

    python -m benchmarks.note_times                the demo's champion, one thread

The first table is the whole way from a text to its answer, CPU milliseconds, the median of some rounds. The second is
what the rules take of it (structure, short forms, assertion, language) for texts that no person writes.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.side_by_side import champions
from clinical.abbreviations import settle
from clinical.entities import ScoredSpan
from clinical.language import not_english
from clinical.markup import plain
from clinical.medication_use import rule_on
from clinical.note_structure import statements
from clinical.shorthand import expand
from runners.ner import LONGEST_TEXT, NerRunner, Note

_NOTE = (
    "HPI: 62 yo woman with three days of cough, fever and shortness of breath. Denies chest pain, N/V.\n"
    "PMH: hypertension, type 2 diabetes. FH: father had a stroke.\nMeds: metformin 500 mg twice daily.\n"
    "Exam: wheezing at both bases, no edema.\nPlan: chest x-ray, continue metformin.\n"
)
_WORDS = {20: 21, 300: 9, 5000: 3}  # words of a note, and rounds
_SLOW = {
    "lines": "a\n",
    "keys": "a: ",
    "questions with answers": "a? no\n",
    "boxes": "[ ] yes [x] no ",
    "signs behind": "a+ b- ",
    "signed lines": "+ a\n- b\n",
    "brackets": "(AB) ",
    "short forms": "PE MS N/V/D ",
    "rows": "a ..... ",
    "headings with a dash": "PMH - ",
    "tags": "<br>",
    "blanks": "cough" + 500 * " ",
    "triggers": "history of mother denies ",
    "plan": "Plan: ct, ",
    "another language": "el niño tiene ",
}


def milliseconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of the process's CPU time."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken) * 1000


def note_of(words: int) -> str:
    have = _NOTE.split(" ")
    return " ".join((have * (words // len(have) + 1))[:words])[:LONGEST_TEXT]


def rules(text: str) -> None:
    """All that is made of a text beside the model, with every second word a mention."""
    read = plain(text)
    parts = statements(read)
    found, at = [], 0
    for number, word in enumerate(read.replace("\n", " ").split(" ")):
        if number % 2 and word.isalpha():
            found.append(ScoredSpan("SYMPTOM", at, at + len(word), 0.9))
        at += len(word) + 1
    settle(read, expand(read, found, parts, 0.9))
    rule_on(read, parts, found)
    not_english(read)


def main() -> None:
    console = Console(width=100)
    with ExitStack() as stack:
        (stored,) = [model for model in champions(stack) if model.manifest.kind == "clinical-ner"]
        runner = NerRunner(stored.path, stored.manifest.parameters)
        runner.warm_up()
        table = Table("words", "characters", "ms of CPU a note")
        for words, rounds in track(_WORDS.items(), description="notes", console=console):
            text = note_of(words)
            spent = milliseconds(lambda text=text: runner.run([Note(text)]), rounds)  # type: ignore[misc]
            table.add_row(str(words), str(len(text)), f"{spent:.2f}")
        console.print(table)
    slow = Table(f"{LONGEST_TEXT:,} characters of", "ms of CPU, rules")
    for name, piece in track(_SLOW.items(), description="worst cases", console=console):
        text = (piece * (LONGEST_TEXT // len(piece) + 1))[:LONGEST_TEXT]
        slow.add_row(name, f"{milliseconds(lambda text=text: rules(text), 3):.0f}")  # type: ignore[misc]
    console.print(slow)


if __name__ == "__main__":
    main()
