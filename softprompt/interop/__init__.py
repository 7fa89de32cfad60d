"""Doors to other tools: attach to a loaded model, PEFT folders, numpy files, the hub."""
