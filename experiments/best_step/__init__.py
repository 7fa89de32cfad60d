"""Which evaluation of a run to store, where few validation rows give many equal scores."""
