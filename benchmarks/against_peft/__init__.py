"""A training step of PEFT under the Hugging Face Trainer beside ours: what `benchmarks/training.py` is made of."""
