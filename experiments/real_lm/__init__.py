"""The papers' questions, asked of a real language model: the study of docs/results/real-lm.md."""
