"""Soft prompts: stored ones, trainable ones, their initial vectors, reparameterisations and units.

This package needs torch only. It loads no model and reads no file. Read in this order: `prompt` (the prompt as it is
stored), `reparam` (networks over its vectors), `methods` (named presets), `trainable` (a prompt in training, and a
fleet of them), `batch` (what a backbone takes as input).
"""
