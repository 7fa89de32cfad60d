"""What is learned from other tasks before the own one: SPoT and MPT."""
