"""Feed-forward style models: a network learns one style, and paints at frames per second.

>>> import workbench
>>> from workbench import fast
>>> style = workbench.load_image("sketch.png")
>>> for iterate in fast.train([style], ["interview.mp4"], "models/sketch"):
...     print(iterate.step, iterate.losses.total)
>>> model = fast.StyleModel.load("models/sketch")
>>> workbench.save_image(model(workbench.load_image("photo.jpg")), "painted.png")
"""

from workbench.fast.models import StyleModel, label_checkpoint
from workbench.fast.training import TrainingIterate, finish_training, train, train_model

__all__ = [
    "StyleModel",
    "TrainingIterate",
    "finish_training",
    "label_checkpoint",
    "train",
    "train_model",
]
