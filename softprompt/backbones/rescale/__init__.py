"""Word embeddings at another scale, with everything that the model computes unchanged."""
