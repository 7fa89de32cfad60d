"""What the layers of a deep prompt begin as, and at which rate they learn."""
