"""What one writes by hand: FastAPI, a ThreadPoolExecutor(4), torch eager. No token, no cache, no audit, no batching.

    python -m benchmarks.bare_server --port 8101 --deterioration PATH_OF_STORED_MODEL

The deterioration weights are those that we serve; the NER network is the same encoder with a head of the same size
(its weights do not change what it costs).
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from clinical.entities import LABELS
from clinical.vitals import FEATURE_NAMES
from training.deterioration.checkpoint import load_checkpoint
from training.ner import encoder


class Note(BaseModel):
    text: str


class Week(BaseModel):
    measurements: list[dict[str, float | None] | None]


def build(deterioration: Path) -> FastAPI:
    """The whole application."""
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(4)
    network = load_checkpoint(deterioration / "deterioration_lstm.safetensors").eval()
    folder = encoder.find()
    tokenizer = encoder.tokenizer(folder)
    tagger = encoder.token_classifier(folder, LABELS, seed=0).eval()
    app = FastAPI()

    def row(day: dict[str, float | None] | None) -> list[float]:
        values = [(day or {}).get(name) for name in FEATURE_NAMES]
        return [np.nan if value is None else value for value in values]

    def score(week: Week) -> float:
        window = torch.tensor([[row(day) for day in week.measurements]], dtype=torch.float32)
        with torch.inference_mode():
            return float(network(window)[0])

    def tag(note: Note) -> list[dict[str, Any]]:
        encoding = tokenizer.encode(note.text)
        with torch.inference_mode():
            logits = tagger(
                input_ids=torch.tensor([encoding.ids]), attention_mask=torch.tensor([encoding.attention_mask])
            ).logits[0]
        scores, labels = logits.softmax(-1).max(-1)
        found = zip(labels.tolist(), scores.tolist(), encoding.offsets, strict=True)
        return [
            {"label": LABELS[label], "score": value, "start": start, "end": end}
            for label, value, (start, end) in found
            if label
        ]

    @app.post("/deterioration")
    async def deterioration_route(week: Week) -> dict[str, Any]:
        return {"score": await asyncio.get_running_loop().run_in_executor(pool, score, week)}

    @app.post("/ner")
    async def ner_route(note: Note) -> dict[str, Any]:
        return {"entities": await asyncio.get_running_loop().run_in_executor(pool, tag, note)}

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deterioration", type=Path, required=True)
    options = parser.parse_args()
    app = build(options.deterioration)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
