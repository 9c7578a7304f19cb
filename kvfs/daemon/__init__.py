"""One mount from start to end: the objects, the tasks, the order of starting and stopping."""
