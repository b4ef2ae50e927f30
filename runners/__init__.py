"""A model behind a batcher. onnxruntime and tokenizers only: torch never loads at serving time."""
