"""What a prompt answers: label scores and greedy answers, the metrics of a split, predictions for new texts."""
