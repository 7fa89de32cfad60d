"""Connections to other tools: loaded models, PEFT folders, numpy files and the hub."""
