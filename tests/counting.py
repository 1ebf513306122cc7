"""The smallest trainable. In a module of its own: its actors import nothing else, which is most of a test's time."""

from pathlib import Path

from ray import tune


class Counter(tune.Trainable):
    def setup(self, config):
        self.count = 0

    def step(self):
        self.count += 1
        return {"count": self.count}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "count").write_text(str(self.count))
