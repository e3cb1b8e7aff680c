"""The Flows tab of a real Flower: a package, so that pytest ends its processes after its last test."""
