"""Studies of this repository: how its evidence pages are made. They need a checkout and are not installed."""
