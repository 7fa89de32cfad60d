"""What needs a real T5: a check of the default methods, and the paper's protocol on a GPU."""
