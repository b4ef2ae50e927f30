"""Fine-tuning: lines become noisy notes of many lengths, notes become batches of equal cost, an optimiser walks
over them.

The clock and the disk stay outside; the same lines, config and thread count give the same weights.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer

from clinical.entities import ASSERTIONS, ENTITY_TYPES, LABELS, Pieces
from clinical.labelling import Ints
from training.ner.augmentation import Noise, Segment, disturb, from_segments, join, mentions_by_type, segments
from training.ner.corpus import MarkedLine, piece_assertions, piece_labels
from training.progress import Progress
from training.unfinished import Unfinished
from training.walk import Walk, WeightAverage

IGNORED: Final = -100
_OUTSIDE: Final = LABELS.index("O")
_FIRST_WORDPIECE: Final = 1996  # ids from here on are words and word parts; below are signs and single letters


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How the encoder is fine-tuned."""

    seed: int = 17
    threads: int = 2
    # length of the walk
    epochs: int = 8
    batch_pieces: int = 384
    # optimiser
    learning_rate: float = 6e-4
    head_learning_rate: float = 2e-3
    layer_decay: float = 0.85
    weight_decay: float = 0.01
    warmup: float = 0.1
    label_smoothing: float = 0.05
    clip_norm: float = 1.0
    assertion_weight: float = 0.3  # of the assertions' loss beside the labels'
    frozen_layers: int = 0
    average_from: float = 0.6  # the share of steps after which weights are averaged; 1 means never
    # noise
    alone: float = 0.5  # share of lines that stay alone; the others are joined to notes
    note_pieces: int = 220
    masked: float = 0.0
    noise: Noise = field(default_factory=Noise)


@dataclass(frozen=True, slots=True)
class Example:
    """int64[pieces + 2] ids with the special tokens, labels and assertions of the same shape, IGNORED at those two and
    where nothing is said, and the types that are left open where nothing is marked: a bit for each of ENTITY_TYPES."""

    ids: Ints
    labels: Ints
    assertions: Ints
    left_open: int


class ExampleMaker:
    """Draws an epoch's examples from the lines."""

    def __init__(self, lines: Sequence[MarkedLine], tokenizer: Tokenizer, config: FitConfig) -> None:
        self._lines = lines
        self._tokenizer = tokenizer
        self._config = config
        self._others = mentions_by_type(lines)
        self._draw = random.Random(config.seed)
        self._special = tuple(int(tokenizer.token_to_id(token) or 0) for token in ("[CLS]", "[SEP]", "[MASK]"))

    def epoch(self) -> list[Example]:
        """Every line once, in a new order, alone or in a note."""
        order = list(self._lines)
        self._draw.shuffle(order)
        notes: list[list[MarkedLine]] = []
        while order:
            if self._draw.random() < self._config.alone:
                notes.append([order.pop()])
                continue
            room = self._draw.randint(self._config.note_pieces // 4, self._config.note_pieces)
            notes.append([])
            while order and room > 0 and _may_follow(notes[-1], order[-1]):
                notes[-1].append(order.pop())
                room -= len(notes[-1][-1].text) // 4
        return [
            self._example(join([self._row(line) for line in note], self._draw), note[0].annotates) for note in notes
        ]

    def _row(self, line: MarkedLine) -> list[Segment]:
        return disturb(segments(line), self._config.noise, self._others, self._draw)

    def _example(self, note: Sequence[Segment], annotates: frozenset[str]) -> Example:
        text, mentions = from_segments(note)
        pieces = Pieces.of(text, self._tokenizer.encode(text, add_special_tokens=False))
        limit = 510
        labels = piece_labels(mentions, pieces)[:limit]
        said = piece_assertions(mentions, pieces)[:limit]
        said[said < 0] = IGNORED
        ids = pieces.ids[:limit].copy()
        cls, sep, mask = self._special
        hidden = np.array([self._draw.random() < self._config.masked for _ in ids], dtype=bool)
        ids[hidden & (ids >= _FIRST_WORDPIECE)] = mask
        bits = sum(1 << place for place, kind in enumerate(ENTITY_TYPES) if kind not in annotates)
        around = np.array([IGNORED])
        return Example(
            ids=np.concatenate([[cls], ids, [sep]]),
            labels=np.concatenate([around, labels, around]),
            assertions=np.concatenate([around, said, around]),
            left_open=bits,
        )


def _may_follow(note: Sequence[MarkedLine], line: MarkedLine) -> bool:
    """A note holds lines that mark the same types."""
    return not note or note[0].annotates == line.annotates


def batches(examples: Sequence[Example], budget: int, draw: random.Random) -> list[list[Example]]:
    """Examples of like length together, each batch at most `budget` padded pieces, batches in random order."""
    ordered = sorted(examples, key=lambda example: len(example.ids) * draw.uniform(0.9, 1.1))
    cut: list[list[Example]] = []
    longest = 0
    for example in ordered:
        longest = max(longest, len(example.ids))
        if not cut or (len(cut[-1]) + 1) * longest > budget:
            cut.append([])
            longest = len(example.ids)
        cut[-1].append(example)
    draw.shuffle(cut)
    return cut


@dataclass(frozen=True, slots=True)
class Batch:
    """int64[batch, longest] ids, attention mask, labels and assertions."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    assertions: torch.Tensor


def padded(batch: Sequence[Example]) -> Batch:
    """Examples of unequal length side by side."""
    longest = max(len(example.ids) for example in batch)

    def rows(of: Callable[[Example], Ints], filler: int) -> torch.Tensor:
        table = np.full((len(batch), longest), filler, dtype=np.int64)
        for row, example in enumerate(batch):
            table[row, : len(example.ids)] = of(example)
        return torch.from_numpy(table)

    return Batch(
        ids=rows(lambda one: one.ids, 0),
        mask=rows(lambda one: np.ones_like(one.ids), 0),
        labels=rows(lambda one: one.labels, IGNORED),
        assertions=rows(lambda one: one.assertions, IGNORED),
    )


class PartialLabelLoss:
    """Cross-entropy, except where a type is left open: there "outside" is right, and so is every label of that type.

    Marginal likelihood over the labels that may be true (partial-label learning, Jin and Ghahramani 2002).
    """

    def __init__(self, label_smoothing: float) -> None:
        self._whole = torch.nn.CrossEntropyLoss(ignore_index=IGNORED, label_smoothing=label_smoothing)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, left_open: Sequence[int]) -> torch.Tensor:
        """Mean loss of float32[batch, pieces, labels] logits and int64[batch, pieces] labels."""
        loss: torch.Tensor
        if not any(left_open):
            loss = self._whole(logits.reshape(-1, len(LABELS)), labels.view(-1))
            return loss
        allowed = torch.zeros(len(left_open), len(LABELS), dtype=torch.bool)
        for row, bits in enumerate(left_open):
            allowed[row, _OUTSIDE] = True
            for place, kind in enumerate(ENTITY_TYPES):
                if bits >> place & 1:
                    allowed[row, [LABELS.index(f"B-{kind}"), LABELS.index(f"I-{kind}")]] = True
        scores = torch.log_softmax(logits, dim=-1)
        right = torch.nn.functional.one_hot(labels.clamp(min=0), len(LABELS)).bool()
        right |= (labels == _OUTSIDE).unsqueeze(-1) & allowed.unsqueeze(1)
        told = scores.masked_fill(~right, -torch.inf).logsumexp(dim=-1)
        counted = labels != IGNORED
        loss = -(told * counted).sum() / counted.sum()
        return loss


def assertion_loss(logits: torch.Tensor, assertions: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of float32[batch, pieces, assertions] where something is said; 0 where nothing is."""
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, len(ASSERTIONS)), assertions.view(-1), ignore_index=IGNORED, reduction="sum"
    )
    return total / (assertions != IGNORED).sum().clamp(min=1)


def parameter_groups(model: Any, config: FitConfig) -> list[dict[str, Any]]:
    """Layer-wise learning rates: lower layers know language already and move less; the lowest don't move."""
    layers = list(model.bert.encoder.layer)
    model.bert.embeddings.requires_grad_(False)
    for layer in layers[: config.frozen_layers]:
        layer.requires_grad_(False)
    groups = [{"params": list(model.classifier.parameters()), "lr": config.head_learning_rate}]
    for depth, layer in enumerate(reversed(layers[config.frozen_layers :])):
        groups.append({"params": list(layer.parameters()), "lr": config.learning_rate * config.layer_decay**depth})
    return groups


def fit(
    model: Any,
    lines: Sequence[MarkedLine],
    tokenizer: Tokenizer,
    config: FitConfig,
    progress: Progress,
    *,
    unfinished: Unfinished | None = None,
) -> None:
    """Fine-tune `model` in place; it ends in evaluation mode.

    With `unfinished`, a run that was interrupted goes on after its last whole epoch.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    draw = random.Random(config.seed + 1)
    maker = ExampleMaker(lines, tokenizer, config)
    epochs = [batches(maker.epoch(), config.batch_pieces, draw) for _ in range(config.epochs)]
    ends = list(accumulate(len(epoch) for epoch in epochs))
    groups = parameter_groups(model, config)
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [group["lr"] for group in groups],
        total_steps=ends[-1] + 1,
        pct_start=max(config.warmup, 2 / (ends[-1] + 1)),  # a phase without a step would divide by zero
        anneal_strategy="cos",
        cycle_momentum=False,
        final_div_factor=50,
    )
    trained = [parameter for group in groups for parameter in group["params"]]
    loss_of = PartialLabelLoss(config.label_smoothing)
    average, kept = WeightAverage(trained), unfinished or Unfinished()
    walk = Walk(network=model, optimiser=optimiser, schedule=schedule, average=average)
    model.train()
    for number in range(walk.take_up(kept), config.epochs):
        for step, batch in enumerate(epochs[number], start=ends[number] - len(epochs[number])):
            given = padded(batch)
            both = model(input_ids=given.ids, attention_mask=given.mask).logits
            logits, said = both[..., : len(LABELS)], both[..., len(LABELS) :]
            loss = loss_of(logits, given.labels, [example.left_open for example in batch])
            loss = loss + config.assertion_weight * assertion_loss(said, given.assertions)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            if step >= config.average_from * ends[-1]:
                average.add()
            progress("fine-tuning", step + 1, ends[-1])
        walk.keep(kept, number + 1)
    average.apply()
    kept.done()
    model.eval()
