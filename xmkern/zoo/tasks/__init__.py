"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.actions import Actions
from xmkern.zoo.tasks.annotation import Annotation
from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.captions import Captions
from xmkern.zoo.tasks.density import Density
from xmkern.zoo.tasks.hashing import Hashing
from xmkern.zoo.tasks.imagination import Imagination
from xmkern.zoo.tasks.likelihood import Likelihood
from xmkern.zoo.tasks.pictures import Pictures
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.reconstruction import Reconstruction
from xmkern.zoo.tasks.retrieval import Retrieval
from xmkern.zoo.tasks.scenes import Changes, Clips
from xmkern.zoo.tasks.text_to_image import TextToImage
from xmkern.zoo.tasks.translation import Translation
from xmkern.zoo.tasks.zero_shot import ZeroShot

TASKS: dict[str, type[Task]] = {
    "actions": Actions,
    "annotation": Annotation,
    "captions": Captions,
    "changes": Changes,
    "clips": Clips,
    "density": Density,
    "hashing": Hashing,
    "imagination": Imagination,
    "likelihood": Likelihood,
    "pictures": Pictures,
    "questions": QuestionAnswering,
    "reconstruction": Reconstruction,
    "retrieval": Retrieval,
    "text_to_image": TextToImage,
    "translation": Translation,
    "zero_shot": ZeroShot,
}

__all__ = ["TASKS", "Batch", "Score", "Task"]
