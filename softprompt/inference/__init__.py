"""The answers of prompts: label scores and generated answers, metrics of a split, and predictions for new texts."""
