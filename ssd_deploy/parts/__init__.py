"""Many pictures in parts, each detected in by itself, in one process or in many."""
