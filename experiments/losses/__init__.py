"""Which loss a label task should be trained on."""
