"""Training: one loop (`mien.train.loop`), one kind of recipe, checkpoints that resume exactly."""
