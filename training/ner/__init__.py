"""Clinical NER: corpus, encoder, fitting, judging and export."""
