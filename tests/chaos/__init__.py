"""Kills, damage, full disks and hostile files: a package, so that its files may be called as others are."""
