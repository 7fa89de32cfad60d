"""What is trained: soft prompts, their initial vectors, reparameterisations and units. Torch only, no model, no files.

Read in this order: `prompt` (the prompt as it is stored), `reparam` (networks over its vectors), `methods` (their
names), `trainable` (a prompt in training, and a fleet of them), `batch` (what a backbone takes).
"""
