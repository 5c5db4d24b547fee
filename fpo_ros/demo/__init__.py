"""The main job end to end: demonstrations, training, release, the running graph, a report."""
