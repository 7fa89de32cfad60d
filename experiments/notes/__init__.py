"""Smaller studies, one file each."""
