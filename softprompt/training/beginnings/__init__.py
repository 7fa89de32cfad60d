"""What a prompt begins with: words, labelled examples, initial vectors, and the stored prompts they come from."""
