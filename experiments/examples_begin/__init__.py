"""Whether labelled rows are a better beginning than random vectors on a decoder that is trained on toy rows."""
